# Completion of fleetctl for fish: commands, options and their values, units and machines of the cluster.
# To be installed as /usr/share/fish/vendor_completions.d/fleetctl.fish.

function __fleetctl_candidates
    set -l words (commandline --tokenize --current-process --cut-at-cursor)
    fleetctl __complete -- $words[2..-1] (commandline --current-token --cut-at-cursor) 2>/dev/null
end

complete --command fleetctl --no-files --arguments '(__fleetctl_candidates)'
