package tsh

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	hintNoSharing = "leave it out: each tsh opens its own connection; ssh can share one, see: tsh config"
	hintNoIPFlag  = "leave it out: tsh tries every address of the proxy's name"
	hintNoPorts   = "leave it out: nodes have no ports, they are reached by name"
	hintNoX11     = "leave it out: X11 is not forwarded, because any program on the node " +
		"could read the keys you type here"
)

// sshFlagHints says what to do instead for the flags of ssh and scp that tsh does not have.
var sshFlagHints = map[string]string{
	"4": hintNoIPFlag,
	"6": hintNoIPFlag,
	"C": "leave it out: tsh does not compress",
	"E": "leave it out; to write a log, append 2>FILE",
	"F": "leave it out: tsh reads no OpenSSH configuration; for ssh itself see: tsh config",
	"G": "see: tsh config",
	"J": "leave it out: tsh always connects through the proxy of your login",
	"M": hintNoSharing,
	"O": hintNoSharing,
	"P": hintNoPorts,
	"S": hintNoSharing,
	"V": "see: tsh version",
	"X": hintNoX11,
	"Y": hintNoX11,
	"c": "leave it out: tsh chooses the fastest safe cipher itself",
	"f": "leave it out and let the shell run it in the background: tsh ssh -N … &",
	"g": "leave it out and name the address to listen on: -L '*:8080:localhost:80'",
	"i": "leave it out: tsh uses the key and certificate of your login",
	"m": "leave it out: tsh chooses the fastest safe cipher itself",
	"p": hintNoPorts,
	"w": "leave it out: nodes do not offer tun devices; see -L, -R and -D",
}

// scpFlagHints has the flags that mean something else to scp than to ssh, or that only scp has. For "tsh scp"
// its hints replace those of sshFlagHints.
var scpFlagHints = map[string]string{
	"3": "leave it out: copy to this machine first, then from here",
	"A": "leave it out: a copy needs no agent",
	"B": "leave it out: tsh asks no questions",
	"O": "leave it out: tsh scp always uses SFTP; scp itself has -O, see: tsh config",
	"l": "leave it out: tsh scp has no speed limit; name a login as LOGIN@NODE",
	"o": "leave it out: tsh scp takes no OpenSSH options; scp itself does, see: tsh config",
	"v": "leave it out; to see how a node is reached: tsh ssh -v NODE true",
}

// explainFlagError turns an error of pflag into an Invalid fault with a hint. For a flag of ssh or scp that
// tsh does not have, the hint says what to do instead. For a duration it replaces the message, in which
// pflag quotes Go's parser. Other messages of pflag stay.
func explainFlagError(cmd *cobra.Command, err error) error {
	var unknown interface{ GetSpecifiedName() string }
	if errors.As(err, &unknown) && (cmd.Name() == "ssh" || cmd.Name() == "scp") {
		name := unknown.GetSpecifiedName()
		hint, hasHint := sshFlagHints[name]
		if scpHint, ok := scpFlagHints[name]; ok && cmd.Name() == "scp" {
			hint, hasHint = scpHint, true
		}
		// The unknown flag may be a long one with the name of a known short one, as in --v: no hint is for
		// it. ShorthandLookup panics for a name of several letters, but only names of one letter have a hint.
		if hasHint && cmd.Flags().ShorthandLookup(name) == nil {
			return flagUnknown.Wrap(err, "", fault.Args{
				"command": cmd.CommandPath(),
				"flag":    name,
				"hint":    hint,
			})
		}
	}
	var value interface{ GetValue() string }
	if errors.As(err, &value) && strings.Contains(err.Error(), " flag: time: ") {
		return flagDurationInvalid.Wrap(err, "", fault.Args{"value": value.GetValue()})
	}
	return usageError(cmd, err)
}
