# Perl's Email::MIME (libemail-mime-perl); the contract is in __init__.py.
use strict;
use warnings;
use Email::MIME;
use JSON::PP qw(encode_json);
use MIME::Base64 qw(encode_base64);

$| = 1;

sub found {
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

while (my $path = <STDIN>) {
    chomp $path;
    my $answer = eval { found($path) } // [];
    print encode_json($answer), "\n";
}
