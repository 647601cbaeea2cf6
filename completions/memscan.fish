# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_memscan_global_optspecs
    string join \n json o/output= list-columns n/noheadings b/bytes color= threads= memory= verify= progress= q/quiet h/help V/version
end

function __fish_memscan_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_memscan_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_memscan_using_subcommand
    set -l cmd (__fish_memscan_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c memscan -n "__fish_memscan_needs_command" -s o -l output -d 'Columns to show, with commas; +LIST adds to the default ones' -r
complete -c memscan -n "__fish_memscan_needs_command" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_needs_command" -l threads -d 'Threads to scan with; 0 is one for each processor' -r
complete -c memscan -n "__fish_memscan_needs_command" -l memory -d 'Bound the memory kept for shared pages (at least 8M); page tables are read again for what does not fit' -r
complete -c memscan -n "__fish_memscan_needs_command" -l verify -d 'What to read a second time, to tell pages that change' -r -f -a "auto\t'A sample; every shared page as soon as the sample shows a change'
full\t'Every shared page'
none\t'Nothing'"
complete -c memscan -n "__fish_memscan_needs_command" -l progress -d 'When to show a progress bar, on standard error' -r -f -a "auto\t'On a terminal, if it takes long'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_needs_command" -l json -d 'Print JSON'
complete -c memscan -n "__fish_memscan_needs_command" -l list-columns -d 'List the columns that there are, and end'
complete -c memscan -n "__fish_memscan_needs_command" -s n -l noheadings -d 'Leave the heading out'
complete -c memscan -n "__fish_memscan_needs_command" -s b -l bytes -d 'Sizes in bytes instead of K, M, G'
complete -c memscan -n "__fish_memscan_needs_command" -s q -l quiet -d 'Leave remarks on standard error out'
complete -c memscan -n "__fish_memscan_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c memscan -n "__fish_memscan_needs_command" -s V -l version -d 'Print version'
complete -c memscan -n "__fish_memscan_needs_command" -a "summary" -d 'A row a VM: resident, unique and shared memory by mechanism; footprint and expansion'
complete -c memscan -n "__fish_memscan_needs_command" -a "matrix" -d 'Memory shared by each pair of VMs, and by each set of them'
complete -c memscan -n "__fish_memscan_needs_command" -a "what-if" -d 'Forecast what a move costs: growth there, gain here, bytes to send'
complete -c memscan -n "__fish_memscan_needs_command" -a "why" -d 'Why pages with equal content are not shared, and what to change'
complete -c memscan -n "__fish_memscan_needs_command" -a "ksm" -d 'KSM\'s state, settings, progress and profit'
complete -c memscan -n "__fish_memscan_needs_command" -a "map" -d 'Each page\'s facts, as lines for a pipe'
complete -c memscan -n "__fish_memscan_needs_command" -a "record" -d 'Record a scan in a file, to compare it later'
complete -c memscan -n "__fish_memscan_needs_command" -a "diff" -d 'Compare two records: which sharing was lost, and why the footprint grew'
complete -c memscan -n "__fish_memscan_needs_command" -a "watch" -d 'Watch sharing over time; a time series at the end'
complete -c memscan -n "__fish_memscan_needs_command" -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c memscan -n "__fish_memscan_using_subcommand summary" -s o -l output -d 'Columns to show, with commas; +LIST adds to the default ones' -r
complete -c memscan -n "__fish_memscan_using_subcommand summary" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand summary" -l threads -d 'Threads to scan with; 0 is one for each processor' -r
complete -c memscan -n "__fish_memscan_using_subcommand summary" -l memory -d 'Bound the memory kept for shared pages (at least 8M); page tables are read again for what does not fit' -r
complete -c memscan -n "__fish_memscan_using_subcommand summary" -l verify -d 'What to read a second time, to tell pages that change' -r -f -a "auto\t'A sample; every shared page as soon as the sample shows a change'
full\t'Every shared page'
none\t'Nothing'"
complete -c memscan -n "__fish_memscan_using_subcommand summary" -l progress -d 'When to show a progress bar, on standard error' -r -f -a "auto\t'On a terminal, if it takes long'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand summary" -l json -d 'Print JSON'
complete -c memscan -n "__fish_memscan_using_subcommand summary" -l list-columns -d 'List the columns that there are, and end'
complete -c memscan -n "__fish_memscan_using_subcommand summary" -s n -l noheadings -d 'Leave the heading out'
complete -c memscan -n "__fish_memscan_using_subcommand summary" -s b -l bytes -d 'Sizes in bytes instead of K, M, G'
complete -c memscan -n "__fish_memscan_using_subcommand summary" -s q -l quiet -d 'Leave remarks on standard error out'
complete -c memscan -n "__fish_memscan_using_subcommand summary" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -l by -d 'Show one mechanism only: ksm, fork, file, shmem or zero' -r -f -a "ksm\t''
fork\t''
file\t''
shmem\t''
zero\t''"
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -l svg -d 'Write a heat map; - for standard output' -r -F
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -l threads -d 'Threads to scan with; 0 is one for each processor' -r
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -l memory -d 'Bound the memory kept for shared pages (at least 8M); page tables are read again for what does not fit' -r
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -l verify -d 'What to read a second time, to tell pages that change' -r -f -a "auto\t'A sample; every shared page as soon as the sample shows a change'
full\t'Every shared page'
none\t'Nothing'"
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -l progress -d 'When to show a progress bar, on standard error' -r -f -a "auto\t'On a terminal, if it takes long'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -l json -d 'Print JSON'
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -l groups -d 'Show the sets of two and more VMs that share frames, and how many'
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -s n -l noheadings -d 'Leave the heading out'
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -s b -l bytes -d 'Sizes in bytes instead of K, M, G'
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -s q -l quiet -d 'Leave remarks on standard error out'
complete -c memscan -n "__fish_memscan_using_subcommand matrix" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -l leave -d 'A VM that leaves, by name; may be given several times. Without it, each alone' -r
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -l template -d 'A template file that the destination has: its pages are neither sent nor cost memory there' -r -F
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -s o -l output -d 'Columns to show, with commas; +LIST adds to the default ones' -r
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -l threads -d 'Threads to scan with; 0 is one for each processor' -r
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -l memory -d 'Bound the memory kept for shared pages (at least 8M); page tables are read again for what does not fit' -r
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -l verify -d 'What to read a second time, to tell pages that change' -r -f -a "auto\t'A sample; every shared page as soon as the sample shows a change'
full\t'Every shared page'
none\t'Nothing'"
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -l progress -d 'When to show a progress bar, on standard error' -r -f -a "auto\t'On a terminal, if it takes long'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -l json -d 'Print JSON'
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -l list-columns -d 'List the columns that there are, and end'
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -s n -l noheadings -d 'Leave the heading out'
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -s b -l bytes -d 'Sizes in bytes instead of K, M, G'
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -s q -l quiet -d 'Leave remarks on standard error out'
complete -c memscan -n "__fish_memscan_using_subcommand what-if" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c memscan -n "__fish_memscan_using_subcommand why" -l read -d 'Read the content of at most about this much memory; of more, evenly spread pages' -r
complete -c memscan -n "__fish_memscan_using_subcommand why" -l threads -d 'Threads to scan with; 0 is one for each processor' -r
complete -c memscan -n "__fish_memscan_using_subcommand why" -l memory -d 'Bound the memory kept for shared pages (at least 8M); page tables are read again for what does not fit' -r
complete -c memscan -n "__fish_memscan_using_subcommand why" -l verify -d 'What to read a second time, to tell pages that change' -r -f -a "auto\t'A sample; every shared page as soon as the sample shows a change'
full\t'Every shared page'
none\t'Nothing'"
complete -c memscan -n "__fish_memscan_using_subcommand why" -l progress -d 'When to show a progress bar, on standard error' -r -f -a "auto\t'On a terminal, if it takes long'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand why" -l json -d 'Print JSON'
complete -c memscan -n "__fish_memscan_using_subcommand why" -s b -l bytes -d 'Sizes in bytes instead of K, M, G'
complete -c memscan -n "__fish_memscan_using_subcommand why" -s q -l quiet -d 'Leave remarks on standard error out'
complete -c memscan -n "__fish_memscan_using_subcommand why" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c memscan -n "__fish_memscan_using_subcommand ksm" -s o -l output -d 'Columns to show, with commas; +LIST adds to the default ones' -r
complete -c memscan -n "__fish_memscan_using_subcommand ksm" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand ksm" -l json -d 'Print JSON'
complete -c memscan -n "__fish_memscan_using_subcommand ksm" -l list-columns -d 'List the columns that there are, and end'
complete -c memscan -n "__fish_memscan_using_subcommand ksm" -s n -l noheadings -d 'Leave the heading out'
complete -c memscan -n "__fish_memscan_using_subcommand ksm" -s b -l bytes -d 'Sizes in bytes instead of K, M, G'
complete -c memscan -n "__fish_memscan_using_subcommand ksm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c memscan -n "__fish_memscan_using_subcommand map" -l format -d 'How to write it' -r -f -a "tsv\t'Columns with tabs between, and a heading'
jsonl\t'A JSON object a line'
placement\t'The placement map: binary, described in FORMAT.md'"
complete -c memscan -n "__fish_memscan_using_subcommand map" -s o -l output -d 'Where to write it' -r -F
complete -c memscan -n "__fish_memscan_using_subcommand map" -l threads -d 'Threads to scan with; 0 is one for each processor' -r
complete -c memscan -n "__fish_memscan_using_subcommand map" -l memory -d 'Bound the memory kept for shared pages (at least 8M); page tables are read again for what does not fit' -r
complete -c memscan -n "__fish_memscan_using_subcommand map" -l verify -d 'What to read a second time, to tell pages that change' -r -f -a "auto\t'A sample; every shared page as soon as the sample shows a change'
full\t'Every shared page'
none\t'Nothing'"
complete -c memscan -n "__fish_memscan_using_subcommand map" -l progress -d 'When to show a progress bar, on standard error' -r -f -a "auto\t'On a terminal, if it takes long'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand map" -l json -d 'JSON lines; the same as --format jsonl'
complete -c memscan -n "__fish_memscan_using_subcommand map" -s n -l noheadings -d 'Leave the heading of TSV out'
complete -c memscan -n "__fish_memscan_using_subcommand map" -l absent -d 'Tell of absent pages too'
complete -c memscan -n "__fish_memscan_using_subcommand map" -s q -l quiet -d 'Leave remarks on standard error out'
complete -c memscan -n "__fish_memscan_using_subcommand map" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c memscan -n "__fish_memscan_using_subcommand record" -s o -l output -d 'Where to write the record; - for standard output' -r -F
complete -c memscan -n "__fish_memscan_using_subcommand record" -l threads -d 'Threads to scan with; 0 is one for each processor' -r
complete -c memscan -n "__fish_memscan_using_subcommand record" -l memory -d 'Bound the memory kept for shared pages (at least 8M); page tables are read again for what does not fit' -r
complete -c memscan -n "__fish_memscan_using_subcommand record" -l verify -d 'What to read a second time, to tell pages that change' -r -f -a "auto\t'A sample; every shared page as soon as the sample shows a change'
full\t'Every shared page'
none\t'Nothing'"
complete -c memscan -n "__fish_memscan_using_subcommand record" -l progress -d 'When to show a progress bar, on standard error' -r -f -a "auto\t'On a terminal, if it takes long'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand record" -s q -l quiet -d 'Leave remarks on standard error out'
complete -c memscan -n "__fish_memscan_using_subcommand record" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c memscan -n "__fish_memscan_using_subcommand diff" -l json -d 'Print JSON'
complete -c memscan -n "__fish_memscan_using_subcommand diff" -s b -l bytes -d 'Sizes in bytes instead of K, M, G'
complete -c memscan -n "__fish_memscan_using_subcommand diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l interval -d 'Seconds between scans' -r
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l count -d 'End after this many scans; without it, at SIGINT or SIGTERM' -r
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l prometheus -d 'Keep a file for Prometheus\' textfile collector up to date' -r -F
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l svg -d 'Write the series as a picture at the end' -r -F
complete -c memscan -n "__fish_memscan_using_subcommand watch" -s o -l output -d 'Columns to show, with commas; +LIST adds to the default ones' -r
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l threads -d 'Threads to scan with; 0 is one for each processor' -r
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l memory -d 'Bound the memory kept for shared pages (at least 8M); page tables are read again for what does not fit' -r
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l verify -d 'What to read a second time, to tell pages that change' -r -f -a "auto\t'A sample; every shared page as soon as the sample shows a change'
full\t'Every shared page'
none\t'Nothing'"
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l progress -d 'When to show a progress bar, on standard error' -r -f -a "auto\t'On a terminal, if it takes long'
always\t'Always'
never\t'Never'"
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l json -d 'Print a JSON object a scan instead of the view and the series'
complete -c memscan -n "__fish_memscan_using_subcommand watch" -l list-columns -d 'List the columns that there are, and end'
complete -c memscan -n "__fish_memscan_using_subcommand watch" -s n -l noheadings -d 'Leave the heading out'
complete -c memscan -n "__fish_memscan_using_subcommand watch" -s b -l bytes -d 'Sizes in bytes instead of K, M, G'
complete -c memscan -n "__fish_memscan_using_subcommand watch" -s q -l quiet -d 'Leave remarks on standard error out'
complete -c memscan -n "__fish_memscan_using_subcommand watch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c memscan -n "__fish_memscan_using_subcommand help; and not __fish_seen_subcommand_from summary matrix what-if why ksm map record diff watch help" -f -a "summary" -d 'A row a VM: resident, unique and shared memory by mechanism; footprint and expansion'
complete -c memscan -n "__fish_memscan_using_subcommand help; and not __fish_seen_subcommand_from summary matrix what-if why ksm map record diff watch help" -f -a "matrix" -d 'Memory shared by each pair of VMs, and by each set of them'
complete -c memscan -n "__fish_memscan_using_subcommand help; and not __fish_seen_subcommand_from summary matrix what-if why ksm map record diff watch help" -f -a "what-if" -d 'Forecast what a move costs: growth there, gain here, bytes to send'
complete -c memscan -n "__fish_memscan_using_subcommand help; and not __fish_seen_subcommand_from summary matrix what-if why ksm map record diff watch help" -f -a "why" -d 'Why pages with equal content are not shared, and what to change'
complete -c memscan -n "__fish_memscan_using_subcommand help; and not __fish_seen_subcommand_from summary matrix what-if why ksm map record diff watch help" -f -a "ksm" -d 'KSM\'s state, settings, progress and profit'
complete -c memscan -n "__fish_memscan_using_subcommand help; and not __fish_seen_subcommand_from summary matrix what-if why ksm map record diff watch help" -f -a "map" -d 'Each page\'s facts, as lines for a pipe'
complete -c memscan -n "__fish_memscan_using_subcommand help; and not __fish_seen_subcommand_from summary matrix what-if why ksm map record diff watch help" -f -a "record" -d 'Record a scan in a file, to compare it later'
complete -c memscan -n "__fish_memscan_using_subcommand help; and not __fish_seen_subcommand_from summary matrix what-if why ksm map record diff watch help" -f -a "diff" -d 'Compare two records: which sharing was lost, and why the footprint grew'
complete -c memscan -n "__fish_memscan_using_subcommand help; and not __fish_seen_subcommand_from summary matrix what-if why ksm map record diff watch help" -f -a "watch" -d 'Watch sharing over time; a time series at the end'
complete -c memscan -n "__fish_memscan_using_subcommand help; and not __fish_seen_subcommand_from summary matrix what-if why ksm map record diff watch help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
