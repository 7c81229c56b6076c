# Completion of fleetctl for bash: commands, options and their values, units and machines of the cluster.
# To be installed as /usr/share/bash-completion/completions/fleetctl, or sourced.

_fleetctl() {
    local line=${COMP_LINE:0:COMP_POINT} begun="" word
    local -a words
    read -ra words <<<"$line"
    # bash also splits words at @, = and :. fleetctl gets whole words; the part that bash has already is cut off its answers.
    [[ $line == *[[:space:]] ]] && words+=("")
    begun=${words[-1]}
    local has=${begun%"${begun##*[$COMP_WORDBREAKS]}"}
    has=${has%@} # bash splits before @, not after it
    COMPREPLY=()
    while IFS=$'\t' read -r word _; do
        COMPREPLY+=("${word#"$has"}")
    done < <(fleetctl __complete -- "${words[@]:1}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/=] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}

complete -F _fleetctl fleetctl
