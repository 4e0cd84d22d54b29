# Perl's MIME::Parser (libmime-tools-perl), with the uuencode that it can look for; the contract is in __init__.py.
use strict;
use warnings;
use JSON::PP qw(encode_json);
use MIME::Base64 qw(encode_base64);
use MIME::Parser;

$| = 1;

sub found {
    my ($path) = @_;
    my $parser = MIME::Parser->new;
    $parser->output_to_core(1);
    $parser->tmp_to_core(1);
    $parser->extract_uuencode(1);
    my @waiting = ($parser->parse_open($path));
    my @found;
    while (my $part = shift @waiting) {
        push @waiting, $part->parts;
        my $name = $part->head->recommended_filename // "";
        my $content = $part->bodyhandle ? $part->bodyhandle->as_string : "";
        utf8::encode($name) if utf8::is_utf8($name);
        push @found, [encode_base64($name, ""), encode_base64($content, "")];
    }
    return \@found;
}

while (my $path = <STDIN>) {
    chomp $path;
    my $answer = eval { found($path) } // [];
    print encode_json($answer), "\n";
}
