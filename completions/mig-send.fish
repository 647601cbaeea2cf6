complete -c mig-send -l vm -d 'What to send: [NAME=]pid:N, comm:GLOB, cgroup:PATH, image:PATH or herd:DIR/VM; as often as there are VMs' -r
complete -c mig-send -l refer -d 'A VM that another mig-send sends into the same herd: pages that it shares are referred to' -r
complete -c mig-send -l to -d 'Where to: -, exec:CMD, tcp:HOST:PORT, tls:HOST:PORT, unix:PATH, fd:N or file:PATH[,offset=N]' -r
complete -c mig-send -l filters -d 'Filters, in order, with commas: unused, zero, template, shared, same, xor, lz4, zstd[=LEVEL], exec:CMD; auto: those that need no word from you, as measured; none' -r
complete -c mig-send -l template -d 'A template that the receiver was given too' -r -F
complete -c mig-send -l trust -d 'VMs among which the filter \'same\' may find equal pages; without it, each by itself' -r
complete -c mig-send -l group -d 'Moves that name one group send what they share once: a name, or the path of a directory' -r
complete -c mig-send -l freeze -d 'How a process is held still: auto, qmp, qmp:SOCKET, cgroup, stop, or none if you see to it' -r
complete -c mig-send -l remember -d 'Memory in which the filter \'xor\' remembers what was sent, for --live' -r
complete -c mig-send -l resolve -d 'Ask the receiver what became of a session, and end' -r
complete -c mig-send -l tls-cert -d 'This end\'s certificate for tls:, PEM' -r -F
complete -c mig-send -l tls-key -d 'The key of that certificate, PEM, readable by nobody else' -r -F
complete -c mig-send -l tls-ca -d 'Certificates of those who may vouch for the other end, PEM' -r -F
complete -c mig-send -l tls-name -d 'Name in the other end\'s certificate, where it is not the host\'s' -r
complete -c mig-send -l stall -d 'Give up when nothing moves for so many seconds; 0 waits for ever' -r
complete -c mig-send -l key -d 'Digests with the secret in FILE, so that nobody without it can change a stream unnoticed' -r -F
complete -c mig-send -l rate -d 'Send no more than so much a second: bytes, as in 100M, or bits, as in 1Gbit' -r
complete -c mig-send -l threads -d 'Threads that pack; 0 is one for each processor' -r
complete -c mig-send -l progress -d 'When to show a progress bar, on standard error' -r -f -a "auto\t'On a terminal, if it takes long'
always\t'Always'
never\t'Never'"
complete -c mig-send -l keep-filters -d 'Leave filters on that lose time'
complete -c mig-send -l verify -d 'Compare the content of pages that page tables prove to be the same'
complete -c mig-send -l qemu -d 'Send QEMU\'s own migration stream, which comes on standard input, as \'migrate "exec:mig-send --qemu …"\' has it; --vm is then its name'
complete -c mig-send -l end-group -d 'End the group: forget what was sent'
complete -c mig-send -l live -d 'Send everything while it runs, then hold it still and send what has changed: it stands still for a shorter time'
complete -c mig-send -l move -d 'Give the memory up: once the receiver has committed, the source stays paused for good'
complete -c mig-send -l one-way -d 'With --move, on a medium without a way back: stay paused although nobody says that it arrived'
complete -c mig-send -l insecure -d 'Let memory pass in clear text to or from other hosts by tcp:'
complete -c mig-send -l json -d 'The bill as JSON: on standard output, or on standard error where the stream goes there'
complete -c mig-send -s b -l bytes -d 'Sizes in bytes instead of K, M, G'
complete -c mig-send -s q -l quiet -d 'Leave the bill and remarks out'
complete -c mig-send -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mig-send -s V -l version -d 'Print version'
