package tsh

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
)

// later is the answer to OpenSSH's flags for what tsh cannot do yet.
const later = "tsh does not forward ports, agents or windows yet; what it can do: tsh ssh --help"

// opensshFlags says what people should do who type a flag of ssh or scp that tsh has not.
var opensshFlags = map[string]string{
	"A": later, "D": later, "L": later, "N": later, "R": later, "W": "connect other programs with: tsh proxy ssh NODE", "X": later, "Y": later, "f": later,
	"C": "leave it out: tsh does not compress",
	"F": "leave it out: tsh reads no OpenSSH configuration; for ssh itself see: tsh config",
	"J": "leave it out: tsh goes through the proxy of your login by itself",
	"P": "leave it out: nodes have no ports, they are reached by name",
	"i": "leave it out: tsh uses the key and certificate of your login",
	"n": "leave it out, and write </dev/null for an empty input",
	"o": "leave it out: tsh takes no OpenSSH options; ssh itself does, see: tsh config",
	"p": "leave it out: nodes have no ports, they are reached by name",
	"q": "leave it out: tsh is quiet unless -v is given",
}

// wrongFlag words what is wrong with a flag. pflag's own text is fit to read but for values, where it shows what Go's parser said.
func wrongFlag(c *cobra.Command, err error) error {
	var unknown interface{ GetSpecifiedName() string }
	if errors.As(err, &unknown) && (c.Name() == "ssh" || c.Name() == "scp") {
		name := unknown.GetSpecifiedName()
		if hint, ok := opensshFlags[name]; ok && c.Flags().ShorthandLookup(name) == nil {
			return fault.Wrap(err, fault.Invalid, "", fmt.Sprintf("%s has no flag -%s", c.CommandPath(), name), hint)
		}
	}
	var value interface{ GetValue() string }
	if errors.As(err, &value) && c.Flags().Lookup("ttl") != nil {
		return fault.Wrap(err, fault.Invalid, "", fmt.Sprintf("%q is no length of time", value.GetValue()), "write a number and a unit, as 90s or 15m")
	}
	return usage(c, err)
}
