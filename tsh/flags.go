package tsh

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
)

// opensshFlags says what people should do who type a flag of ssh or scp that tsh has not.
var opensshFlags = map[string]string{
	"4": "leave it out: the proxy is reached whichever way its name leads",
	"6": "leave it out: the proxy is reached whichever way its name leads",
	"C": "leave it out: tsh does not compress",
	"E": "leave it out, and write 2>FILE for a log",
	"F": "leave it out: tsh reads no OpenSSH configuration; for ssh itself see: tsh config",
	"G": "see: tsh config",
	"J": "leave it out: tsh goes through the proxy of your login by itself",
	"M": "leave it out: each tsh makes a connection of its own; ssh itself can share one, see: tsh config",
	"O": "leave it out: each tsh makes a connection of its own; ssh itself can share one, see: tsh config",
	"P": "leave it out: nodes have no ports, they are reached by name",
	"S": "leave it out: each tsh makes a connection of its own; ssh itself can share one, see: tsh config",
	"V": "see: tsh version",
	"X": hintNoX11, "Y": hintNoX11,
	"c": "leave it out: tsh takes the fastest safe cipher by itself",
	"f": "leave it out, and let the shell put it in the background: tsh ssh -N … &",
	"g": "leave it out, and say where to listen: -L '*:8080:localhost:80'",
	"i": "leave it out: tsh uses the key and certificate of your login",
	"m": "leave it out: tsh takes the fastest safe cipher by itself",
	"p": "leave it out: nodes have no ports, they are reached by name",
	"w": "leave it out: nodes serve no network tunnels; see -L, -R and -D",
}

// scpFlags are those that mean something else, or nothing, to scp.
var scpFlags = map[string]string{
	"3": "leave it out: copy to this machine first, then from here",
	"A": "leave it out: a copy needs no agent",
	"B": "leave it out: tsh asks nothing",
	"O": "leave it out: tsh scp speaks SFTP alone; scp itself has -O, see: tsh config",
	"l": "leave it out: tsh scp has no limit on speed; name a login as LOGIN@NODE",
	"o": "leave it out: tsh scp takes no OpenSSH options; scp itself does, see: tsh config",
	"v": "leave it out; to see how a node is reached: tsh ssh -v NODE true",
}

// hintNoX11 is the answer to those who want X11.
const hintNoX11 = "leave it out: windows (X11) are not forwarded, because any program there could read the keys you type here"

// wrongFlag words what is wrong with a flag. pflag's own text is fit to read but for values, where it shows
// what Go's parser said.
func wrongFlag(c *cobra.Command, err error) error {
	var unknown interface{ GetSpecifiedName() string }
	if errors.As(err, &unknown) && (c.Name() == "ssh" || c.Name() == "scp") {
		name := unknown.GetSpecifiedName()
		hint, ok := scpFlags[name]
		if !ok || c.Name() != "scp" {
			hint, ok = opensshFlags[name]
		}
		if ok && c.Flags().ShorthandLookup(name) == nil {
			return fault.Wrap(
				err,
				fault.Invalid,
				"",
				fmt.Sprintf("%s has no flag -%s", c.CommandPath(), name),
				hint,
			)
		}
	}
	var value interface{ GetValue() string }
	if errors.As(err, &value) && strings.Contains(err.Error(), `"--ttl"`) {
		return fault.Wrap(
			err,
			fault.Invalid,
			"",
			fmt.Sprintf("%q is no length of time", value.GetValue()),
			"write a number and a unit, as 90s or 15m",
		)
	}
	return usage(c, err)
}
