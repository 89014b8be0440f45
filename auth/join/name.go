package join

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// chooseName returns the name under which a new machine can be stored: the wanted one, or the first of
// wanted-2, wanted-3 and so on that no other machine has. wanted may be any host name; what cannot be part of
// a name is replaced or dropped. Without a usable wanted name the machine's kind takes its place.
//
// pattern is that of the token. One with wildcards must match the wanted name, or it is fault Denied, and the
// result. One without is the result itself, whatever is wanted. If all names that are tried are taken, it is
// fault Exhausted. The name is not reserved: AddMachine checks it again.
func (s *Service) chooseName(
	ctx context.Context, machine state.Machine, wanted, pattern string,
) (string, error) {
	base, tries := s.normalizeName(wanted), maxNameTries
	if base == "" {
		base = string(machine.Kind)
	}
	switch {
	case pattern == "":
		pattern = "*"
	case !hasWildcard(pattern):
		base, tries = pattern, 1
	case !access.Glob(pattern, base):
		return "", nameNotInToken.New(op, fault.Args{"name": base, "pattern": pattern})
	}
	for i := 1; i <= tries; i++ {
		name := base
		if i > 1 {
			name = withSuffix(base, i)
		}
		if s.checkName(name) != nil || !access.Glob(pattern, name) {
			continue
		}
		taken, err := s.cfg.Reader.NameTaken(ctx, name, machine.Kind, machine.Created)
		if err != nil {
			return "", err
		}
		if !taken {
			return name, nil
		}
	}
	return "", machineNamesTaken.New(op, fault.Args{"name": base, "count": tries - 1})
}

// hasWildcard reports whether the pattern of a token may match several names.
func hasWildcard(pattern string) bool { return strings.ContainsAny(pattern, "*?") }

// checkNamePattern returns an error unless a machine's name can match the pattern.
func checkNamePattern(pattern string) error {
	return identity.CheckMachineName(strings.NewReplacer("*", "a", "?", "a").Replace(pattern))
}

// withSuffix puts -i behind the first label: web.example.org becomes web-2.example.org.
func withSuffix(base string, i int) string {
	label, rest, dotted := strings.Cut(base, ".")
	label = fmt.Sprintf("%s-%d", label, i)
	if dotted {
		return label + "." + rest
	}
	return label
}

var notInNames = regexp.MustCompile(`[^a-z0-9.-]+`)

// maxLabelLen is the longest label that is taken over from a host name: 63 (RFC 1035) less room for a suffix.
const maxLabelLen = 58

// normalizeName makes a machine name from a host name. It drops the cluster's name at the end, because
// web.CLUSTER and web are the same machine. The result may be "".
func (s *Service) normalizeName(host string) string {
	name := notInNames.ReplaceAllString(strings.ToLower(host), "-")
	labels := strings.Split(s.trimCluster(name), ".")
	for i := range labels {
		labels[i] = strings.Trim(labels[i][:min(len(labels[i]), maxLabelLen)], "-")
	}
	labels = slices.DeleteFunc(labels, func(l string) bool { return l == "" })
	return s.trimCluster(strings.Join(labels, ".")) // again: the result may end in the cluster's name now
}

// trimCluster removes the cluster's name from the end, however often it is there.
func (s *Service) trimCluster(name string) string {
	for {
		short := strings.TrimSuffix(name, "."+s.cfg.Cluster)
		if short == name {
			return name
		}
		name = short
	}
}

// checkName refuses names that could be mistaken for another machine's. A machine's id is a principal of that
// machine's own certificate, and the cluster's name is the address of its proxies.
func (s *Service) checkName(name string) error {
	if err := identity.CheckMachineName(name); err != nil {
		return err
	}
	switch {
	case identity.CheckMachineID(identity.MachineID(name)) == nil:
		return fmt.Errorf("the name %q looks like a machine's id", name)
	case name == s.cfg.Cluster:
		return fmt.Errorf("the name %q is the cluster's", name)
	case s.trimCluster(name) != name: // web.CLUSTER is the full name of the node web
		return fmt.Errorf("the name %q ends in the cluster's name, which every name gets anyway", name)
	}
	return identity.CheckMachineName(name + "." + s.cfg.Cluster) // the full name must not be too long
}

// checkMachine checks the labels and public names of a machine that asks to join. What does not fit into
// certificates is fault Invalid here, so that the token stays usable: the CA would refuse it only after the
// machine is stored. A node with public names is fault Denied.
//
// checkMachine also sets machine.Aliases of a proxy: the machine names that no node may have, because they
// are public names of this proxy.
func (s *Service) checkMachine(machine *state.Machine) error {
	if err := checkLabelSpace(machine.Labels, machine.Labels.Check()); err != nil {
		return err
	}
	if machine.Kind == identity.Node && len(machine.Names) > 0 {
		return nodePublicNames.New(op)
	}
	if len(machine.Names) > maxNames {
		return publicNamesTooMany.New(op, fault.Args{"count": len(machine.Names), "most": maxNames})
	}
	for _, public := range machine.Names {
		alias, err := s.aliasOf(public)
		if err != nil {
			return publicNameInvalid.Wrap(err, op, fault.Args{"why": err.Error()})
		}
		if alias != "" && !slices.Contains(machine.Aliases, alias) {
			machine.Aliases = append(machine.Aliases, alias)
		}
	}
	return nil
}

// maxLabelBytes bounds the labels of one machine as JSON. It keeps the identity in a certificate well under
// identity.MaxBytes.
const maxLabelBytes = 2 << 10

// CheckLabels refuses labels that an administrator may not give to a machine, which has the labels own from
// itself: malformed ones, those that only a machine gives itself, and more than certificates have room for.
func CheckLabels(given, own identity.Labels) error {
	all := identity.Labels{}
	maps.Copy(all, own)
	maps.Copy(all, given)
	return checkLabelSpace(all, given.CheckGiven())
}

// checkLabelSpace returns err, if the labels are malformed, as a fault, and otherwise refuses more labels
// than certificates have room for.
func checkLabelSpace(l identity.Labels, err error) error {
	if err != nil {
		return labelInvalid.Wrap(err, op, fault.Args{"why": err.Error()})
	}
	text, err := json.Marshal(l) // as it is in certificates
	if err != nil {
		return fmt.Errorf("encode labels: %w", err)
	}
	if len(l) > maxLabels || len(text) > maxLabelBytes {
		return labelsTooMany.New(op, fault.Args{
			"count":      len(l),
			"bytes":      len(text),
			"most":       maxLabels,
			"most_bytes": maxLabelBytes,
		})
	}
	return nil
}

// checkPublicName checks the form of one public host name or IP address of a proxy.
func checkPublicName(public string) error {
	if addr, err := netip.ParseAddr(public); err == nil {
		oneHost := addr.Zone() == "" && !addr.Is4In6() && !addr.IsUnspecified() && !addr.IsMulticast()
		if !oneHost || addr.String() != public {
			const format = "the public address %.80q is not the usual form of one host's address"
			return fmt.Errorf(format, public)
		}
		return nil
	}
	if err := identity.CheckMachineName(public); err != nil {
		return fmt.Errorf("public name: %w", err)
	}
	return nil
}

// aliasOf returns the machine name that nodes may not have because of a public name: the host name without
// the cluster's name at its end; "" for an address. It is an error if checkPublicName refuses the name, or if
// a node could have the alias as its id.
func (s *Service) aliasOf(public string) (string, error) {
	if err := checkPublicName(public); err != nil {
		return "", err
	}
	if _, err := netip.ParseAddr(public); err == nil {
		return "", nil
	}
	alias := s.trimCluster(public)
	if identity.CheckMachineID(identity.MachineID(alias)) == nil {
		return "", fmt.Errorf("the public name %q looks like a machine's id", public)
	}
	return alias, nil
}

// AllowedOrigin returns nil if the host of the origin is one of the public names with which the proxy `by`
// joined, and fault Denied otherwise. A stolen proxy could else make a provider send browsers, and with them
// their login codes, to a host of the thief. Every port is allowed: one name may be served at several.
func (s *Service) AllowedOrigin(by identity.Identity, origin string) error {
	proxy, err := s.cfg.Reader.Machine(context.Background(), by.ID) // reads memory, does not block
	if err != nil {
		return err
	}
	u, err := url.Parse(origin)
	if err == nil && slices.Contains(proxy.Value.Names, u.Hostname()) {
		return nil
	}
	return publicNameUnknown.New(op, fault.Args{"origin": origin, "proxy": proxy.Value.Name})
}
