complete -c mig-recv -l from -d 'Where from: -, exec:CMD, tcp:HOST:PORT, tls:HOST:PORT, unix:PATH, fd:N or file:PATH[,offset=N]; several can be listened to at once' -r
complete -c mig-recv -l into -d 'Keep the VMs in this herd directory, which is made where there is none' -r -F
complete -c mig-recv -l image -d 'Write a VM to a flat sparse image; as often as there are VMs' -r
complete -c mig-recv -l explain -d 'Print a stream, annotated, and keep nothing; - is standard input' -r -F
complete -c mig-recv -l streams -d 'Take so many streams, one after another and at once, and end' -r
complete -c mig-recv -l wait -d 'How long a page may wait for one of another stream, in seconds' -r
complete -c mig-recv -l template -d 'A template that senders may refer to' -r -F
complete -c mig-recv -l filter -d 'The external filter that unpacks what mig-send --filters exec:CMD packed' -r
complete -c mig-recv -l vm -d 'The name that the VM must have' -r
complete -c mig-recv -l group -d 'The group of the moves that send what they share once: a name, or the path of a directory' -r
complete -c mig-recv -l pool-max -d 'Most memory for pages that may be named again, of the group or of this stream alone' -r
complete -c mig-recv -l max-ram -d 'Most memory that the streams may bring together' -r
complete -c mig-recv -l user -d 'Become this user before anything is read; the herd or the images must be writable for it' -r
complete -c mig-recv -l tls-cert -d 'This end\'s certificate for tls:, PEM' -r -F
complete -c mig-recv -l tls-key -d 'The key of that certificate, PEM, readable by nobody else' -r -F
complete -c mig-recv -l tls-ca -d 'Certificates of those who may vouch for the other end, PEM' -r -F
complete -c mig-recv -l tls-name -d 'Name in the other end\'s certificate, where it is not the host\'s' -r
complete -c mig-recv -l stall -d 'Give up when nothing moves for so many seconds; 0 waits for ever' -r
complete -c mig-recv -l key -d 'Digests with the secret in FILE, so that nobody without it can change a stream unnoticed' -r -F
complete -c mig-recv -l threads -d 'Threads that unpack; 0 is one for each processor' -r
complete -c mig-recv -l progress -d 'When to show a progress bar, on standard error' -r -f -a "auto\t'On a terminal, if it takes long'
always\t'Always'
never\t'Never'"
complete -c mig-recv -l discard -d 'Keep nothing: prove that a stream is whole'
complete -c mig-recv -l qemu -d 'Give the stream to QEMU, which waits for it on standard output, as \'-incoming "exec:mig-recv --qemu …"\' has it'
complete -c mig-recv -l force -d 'Replace images that exist'
complete -c mig-recv -l verify -d 'Read everything back before it counts as arrived'
complete -c mig-recv -l end-group -d 'End the group: give its memory back'
complete -c mig-recv -l no-sandbox -d 'Keep all rights while reading: without capabilities, Landlock and seccomp given up'
complete -c mig-recv -l insecure -d 'Let memory pass in clear text to or from other hosts by tcp:'
complete -c mig-recv -l json -d 'What arrived, as JSON on standard output'
complete -c mig-recv -s q -l quiet -d 'Leave remarks out'
complete -c mig-recv -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mig-recv -s V -l version -d 'Print version'
