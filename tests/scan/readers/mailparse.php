<?php
// PHP's mailparse (php-mailparse); the contract is in __init__.py.
error_reporting(0);
ini_set('memory_limit', '1G');

function found(string $content): array
{
    $message = mailparse_msg_create();
    mailparse_msg_parse($message, $content);
    $found = [];
    foreach (mailparse_msg_get_structure($message) ?: [] as $place) {
        $part = mailparse_msg_get_part($message, $place);
        $said = mailparse_msg_get_part_data($part);
        $name = $said['disposition-filename'] ?? $said['content-name'] ?? '';
        $body = mailparse_msg_extract_part($part, $content, null);
        $found[] = [base64_encode((string) $name), base64_encode((string) $body)];
    }
    mailparse_msg_free($message);
    return $found;
}

while (($path = fgets(STDIN)) !== false) {
    $content = file_get_contents(trim($path));
    echo json_encode($content === false ? [] : found($content)), "\n";
}
