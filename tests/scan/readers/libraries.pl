# Perl's libraries: libraries.pl mime_parser|email_mime; the contract is in __init__.py.
# MIME::Parser (libmime-tools-perl) looks for uuencode, too, as it can; Email::MIME is of libemail-mime-perl.
use strict;
use warnings;
use JSON::PP qw(encode_json);
use MIME::Base64 qw(encode_base64);

$| = 1;

sub mime_parser {
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

sub email_mime {
    my ($path) = @_;
    open my $file, "<:raw", $path or return [];
    my $message = do { local $/; <$file> };
    my @found;
    Email::MIME->new($message)->walk_parts(sub {
        my ($part) = @_;
        my $name = eval { $part->filename } // "";
        my $content = $part->subparts ? "" : eval { $part->body } // "";
        utf8::encode($name);
        push @found, [encode_base64($name, ""), encode_base64($content, "")];
    });
    return \@found;
}

my %readers = (mime_parser => ["MIME/Parser.pm", \&mime_parser], email_mime => ["Email/MIME.pm", \&email_mime]);
my ($library, $found) = @{$readers{$ARGV[0]}};
require $library;

while (my $path = <STDIN>) {
    chomp $path;
    my $answer = eval { $found->($path) } // [];
    print encode_json($answer), "\n";
}
