package join

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// chooseName gives the machine a name of its own: the wished one, or with -2, -3 and so on when that is
// taken.
func (d *Service) chooseName(ctx context.Context, m state.Machine, wish string) (string, error) {
	base := d.normalizeName(wish)
	if base == "" {
		base = string(m.Kind)
	}
	for i := 1; i <= maxTries; i++ {
		name := base
		if i > 1 {
			name = suffixed(base, i)
		}
		if d.checkName(name) != nil {
			continue
		}
		taken, err := d.cfg.State.NameTaken(ctx, name, m.Kind, m.Created)
		if err != nil {
			return "", err
		}
		if !taken {
			return name, nil
		}
	}
	return "", fault.New(
		fault.Exhausted,
		op,
		fmt.Sprintf("there is no free name like %s", base),
		"give the machine another name in its configuration",
	)
}

// suffixed puts -2 behind the first label, so that web.example.org becomes web-2.example.org.
func suffixed(base string, i int) string {
	label, rest, dotted := strings.Cut(base, ".")
	label = fmt.Sprintf("%s-%d", label, i)
	if dotted {
		return label + "." + rest
	}
	return label
}

var notInNames = regexp.MustCompile(`[^a-z0-9.-]+`)

// normalizeName makes a machine name of what a host calls itself. Names stand under the cluster's:
// web.CLUSTER and web are one.
func (d *Service) normalizeName(wish string) string {
	s := notInNames.ReplaceAllString(strings.ToLower(wish), "-")
	labels := strings.Split(d.trimCluster(s), ".")
	for i := range labels {
		labels[i] = strings.Trim(labels[i][:min(len(labels[i]), 58)], "-") // leaves room for a suffix
	}
	labels = slices.DeleteFunc(labels, func(l string) bool { return l == "" })
	return d.trimCluster(strings.Join(labels, ".")) // tidied, it may end in the cluster's name at last
}

// trimCluster takes the cluster's name off the end, however often it is there.
func (d *Service) trimCluster(name string) string {
	for {
		short := strings.TrimSuffix(name, "."+d.cfg.Cluster)
		if short == name {
			return name
		}
		name = short
	}
}

// checkName refuses names that would speak for another: a machine's id is a principal of that machine's own
// certificate, and the cluster's name is what people call the front door.
func (d *Service) checkName(name string) error {
	if err := identity.CheckMachineName(name); err != nil {
		return err
	}
	switch {
	case identity.CheckMachineID(identity.MachineID(name)) == nil:
		return fmt.Errorf("the name %q looks like a machine's id", name)
	case name == d.cfg.Cluster:
		return fmt.Errorf("the name %q is the cluster's", name)
	case d.trimCluster(name) != name: // web.CLUSTER is what the node web is called in full
		return fmt.Errorf("the name %q says the cluster's name, which every name has behind it anyway", name)
	}
	return identity.CheckMachineName(name + "." + d.cfg.Cluster)
}

// checkMachine refuses what would not fit into certificates, while the token is still unspent; and notes
// which host names a proxy answers to, so that no node is ever called the same.
func (d *Service) checkMachine(m *state.Machine) error {
	const remedy = "correct the machine's configuration, then start it again"
	if err := CheckLabels(m.Labels); err != nil {
		return err
	}
	if m.Kind == identity.Node && len(m.Names) > 0 {
		return fault.New(fault.Denied, op, "a node has no public names", remedy)
	}
	if len(m.Names) > maxNames {
		return fault.New(
			fault.Invalid,
			op,
			fmt.Sprintf("the proxy has %d public names, more than %d", len(m.Names), maxNames),
			remedy,
		)
	}
	for _, n := range m.Names {
		alias, err := d.checkPublicName(n)
		if err != nil {
			return fault.Wrap(err, fault.Invalid, op, err.Error(), remedy)
		}
		if alias != "" && !slices.Contains(m.Aliases, alias) {
			m.Aliases = append(m.Aliases, alias)
		}
	}
	return nil
}

// maxLabelBytes keeps a machine's identity, labels and all, well under identity.MaxBytes.
const maxLabelBytes = 2 << 10

// CheckLabels refuses labels that are malformed, or more than certificates have room for.
func CheckLabels(l identity.Labels) error {
	const remedy = "correct the labels, then try again"
	if err := l.Check(); err != nil {
		return fault.Wrap(err, fault.Invalid, op, err.Error(), remedy)
	}
	text, err := json.Marshal(l) // as certificates carry them
	if err != nil {
		return fmt.Errorf("encode labels: %w", err)
	}
	if len(l) > maxLabels || len(text) > maxLabelBytes {
		return fault.New(
			fault.Invalid,
			op,
			fmt.Sprintf(
				"there are %d labels of %d bytes, more than %d or %d bytes",
				len(l),
				len(text),
				maxLabels,
				maxLabelBytes,
			),
			remedy,
		)
	}
	return nil
}

// checkPublicName checks one public name or address of a proxy, and returns the machine name it forbids to
// nodes; "" for an address.
func (d *Service) checkPublicName(n string) (alias string, err error) {
	if a, err := netip.ParseAddr(n); err == nil {
		if a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.String() != n {
			return "", fmt.Errorf("the public address %.80q is not the plain form of one host's address", n)
		}
		return "", nil
	}
	if err := identity.CheckMachineName(n); err != nil {
		return "", fmt.Errorf("public name: %w", err)
	}
	if identity.CheckMachineID(identity.MachineID(d.trimCluster(n))) == nil {
		return "", fmt.Errorf("the public name %q looks like a machine's id", n)
	}
	return d.trimCluster(n), nil
}

// AllowedOrigin refuses an origin that is not at one of the public names that the proxy joined with, so that
// a proxy that went bad can not have a provider send browsers, and their codes, elsewhere. Any port is good:
// one name may be served at several.
func (d *Service) AllowedOrigin(by identity.Identity, origin string) error {
	m, err := d.cfg.State.Machine(context.Background(), by.ID) // a look at memory
	if err != nil {
		return err
	}
	u, err := url.Parse(origin)
	if err == nil && slices.Contains(m.Value.Names, u.Hostname()) {
		return nil
	}
	return fault.New(
		fault.Denied,
		op,
		fmt.Sprintf("the proxy %s is not known at %.200q", m.Value.Name, origin),
		"ask an administrator to give the proxy this public address and let it join anew",
	)
}
