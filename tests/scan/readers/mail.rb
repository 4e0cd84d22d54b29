# Ruby's mail (ruby-mail), which Rails reads mail with; the contract is in __init__.py.
require 'json'
require 'mail'

$stdout.sync = true

def base64(octets)
  [octets.to_s].pack('m0')
end

def found(part)
  name = part.filename rescue nil
  content = part.multipart? ? nil : (part.body.decoded rescue nil)
  inside = part.parts rescue []
  [[base64(name), base64(content)], *inside.flat_map { |each| found(each) }]
end

while (path = $stdin.gets)
  answer =
    begin
      found(Mail.new(File.binread(path.chomp)))
    rescue StandardError, SystemStackError
      []
    end
  puts JSON.generate(answer)
end
