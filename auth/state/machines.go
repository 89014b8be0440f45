package state

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Machine is a node or proxy on record. Renewals copy what is here and nothing else.
type Machine struct {
	ID      identity.MachineID `json:"id"`
	Kind    identity.Kind      `json:"kind"`
	Name    string             `json:"name"`
	Labels  identity.Labels    `json:"labels,omitempty"`
	SSHKey  []byte             `json:"ssh_key"`           // host key, SSH wire format
	X509Key []byte             `json:"x509_key"`          // PKIX DER
	Names   []string           `json:"names,omitempty"`   // proxy: the public host names and addresses it answers to
	Aliases []string           `json:"aliases,omitempty"` // proxy: the host names among Names in the form of machine names; no node may have one
	Created time.Time          `json:"created"`
	Renewed time.Time          `json:"renewed"` // when its certificates were last issued
}

// Identity is what the machine's certificates say.
func (m Machine) Identity(cluster string) identity.Identity {
	return identity.Identity{Kind: m.Kind, Cluster: cluster, Name: m.Name, ID: m.ID, Labels: m.Labels}
}

// nameRecord says whose a name is. A name of a removed machine stays reserved until Until.
type nameRecord struct {
	ID    identity.MachineID `json:"id"`
	Kind  identity.Kind      `json:"kind"`
	Until time.Time          `json:"until,omitzero"` // zero: in use
}

// publicNameRecord says which proxies answer to a public name; several may, behind one address.
type publicNameRecord struct {
	Proxies []identity.MachineID `json:"proxies"`
}

var (
	machines     = table[Machine]{prefix: "machine/", noun: "machine", remedy: "run: tsh ls"}
	machineNames = table[nameRecord]{prefix: "name/", noun: "machine named", remedy: "run: tsh ls"}
	publicNames  = table[publicNameRecord]{prefix: "public/", noun: "public name", remedy: "run: tsh ls"}
)

// NameReservation is how long the name of a removed machine can be taken by no other: as long as a
// certificate with that name may live.
const NameReservation = identity.MaxLifetime

// Machine returns the machine with the id.
func (s *State) Machine(ctx context.Context, id identity.MachineID) (Stored[Machine], error) {
	return machines.get(ctx, s, string(id))
}

// MachineByName returns the node or proxy that has the name now.
func (s *State) MachineByName(ctx context.Context, name string) (Stored[Machine], error) {
	h, err := machineNames.get(ctx, s, name)
	if err != nil {
		return Stored[Machine]{}, err
	}
	return s.Machine(ctx, h.Value.ID)
}

// NameTaken reports whether a machine of the kind may not be called name: it is another's, reserved since a
// removal, or what proxies are reached by.
func (s *State) NameTaken(ctx context.Context, name string, kind identity.Kind, now time.Time) (bool, error) {
	h, err := machineNames.getOrNew(ctx, s, name)
	if err != nil || h.Revision != 0 && !h.Value.free(now) {
		return true, err
	}
	p, err := publicNames.getOrNew(ctx, s, name)
	return kind == identity.Node && len(p.Value.Proxies) > 0, err
}

func (h nameRecord) free(now time.Time) bool { return !h.Until.IsZero() && !now.Before(h.Until) }

// AddMachine stores a new machine under its name and spends the token that admits it, all or nothing. Fault
// Conflict means that name or token were taken meanwhile: look again.
func (s *State) AddMachine(ctx context.Context, m Machine, spent Stored[Token], events ...audit.Event) error {
	var c change
	machines.create(&c, string(m.ID), m)
	if err := s.claimName(ctx, &c, m); err != nil {
		return err
	}
	if err := s.claimPublicNames(ctx, &c, m); err != nil {
		return err
	}
	used := spent.Value
	used.Used, used.UsedBy = m.Created, m.ID
	tokens.replace(&c, spent, used)
	c.appendEvents(events...)
	_, err := s.commit(ctx, &c)
	return err
}

func (s *State) claimName(ctx context.Context, c *change, m Machine) error {
	h, err := machineNames.getOrNew(ctx, s, m.Name)
	if err != nil {
		return err
	}
	if h.Revision != 0 && !h.Value.free(m.Created) {
		return fault.New(
			fault.Conflict,
			"state.AddMachine",
			"the name "+m.Name+" is taken",
			"choose another name",
		)
	}
	if m.Kind == identity.Node {
		publicNames.requireMissing(c, m.Name)
	}
	machineNames.replaceOrCreate(c, h, nameRecord{ID: m.ID, Kind: m.Kind})
	return nil
}

// claimPublicNames notes a proxy's public names, and refuses one that a node has: the node's host certificate
// would speak for the proxy.
func (s *State) claimPublicNames(ctx context.Context, c *change, m Machine) error {
	for _, n := range m.Aliases {
		h, err := machineNames.getOrNew(ctx, s, n)
		if err != nil {
			return err
		}
		if h.Revision != 0 && h.Value.Kind == identity.Node {
			return fault.New(
				fault.Denied,
				"state.AddMachine",
				"the public name "+n+" is a node's",
				"give the proxy another public name, or remove the node first",
			)
		}
		if n != m.Name {
			if h.Revision == 0 {
				machineNames.requireMissing(c, n)
			} else {
				machineNames.requireUnchanged(c, h)
			}
		}
		p, err := publicNames.getOrNew(ctx, s, n)
		if err != nil {
			return err
		}
		publicNames.replaceOrCreate(
			c,
			p,
			publicNameRecord{Proxies: append(slices.Clone(p.Value.Proxies), m.ID)},
		)
	}
	return nil
}

// ChangeMachine writes next over old; name, keys and id stay what they are.
func (s *State) ChangeMachine(
	ctx context.Context,
	old Stored[Machine],
	next Machine,
	events ...audit.Event,
) (uint64, error) {
	next.ID, next.Kind, next.Name, next.SSHKey, next.X509Key = old.Value.ID, old.Value.Kind, old.Value.Name, old.Value.SSHKey, old.Value.X509Key
	var c change
	machines.replace(&c, old, next)
	c.appendEvents(events...)
	r, err := s.commit(ctx, &c)
	return r.Revision, err
}

// RecordRenewal writes down when the machine's certificates were issued.
func (s *State) RecordRenewal(
	ctx context.Context,
	id identity.MachineID,
	now time.Time,
	events ...audit.Event,
) error {
	return retryOnConflict(func() error {
		old, err := s.Machine(ctx, id)
		if err != nil {
			return err
		}
		next := old.Value
		next.Renewed = now.UTC()
		_, err = s.ChangeMachine(ctx, old, next, events...)
		return err
	})
}

// RemoveMachine forgets a machine and reserves its name. Its certificates renew no more.
func (s *State) RemoveMachine(
	ctx context.Context,
	old Stored[Machine],
	now time.Time,
	events ...audit.Event,
) error {
	var c change
	machines.remove(&c, old)
	lastSeen.deleteKey(&c, old.Key)
	machineNames.set(
		&c,
		old.Value.Name,
		nameRecord{ID: old.Value.ID, Kind: old.Value.Kind, Until: now.UTC().Add(NameReservation)},
	)
	for _, n := range old.Value.Aliases {
		p, err := publicNames.getOrNew(ctx, s, n)
		if err != nil {
			return err
		}
		rest := slices.DeleteFunc(
			slices.Clone(p.Value.Proxies),
			func(id identity.MachineID) bool { return id == old.Value.ID },
		)
		if p.Revision != 0 && len(rest) == 0 {
			publicNames.remove(&c, p)
		} else if p.Revision != 0 {
			publicNames.replace(&c, p, publicNameRecord{Proxies: rest})
		}
	}
	c.appendEvents(events...)
	_, err := s.commit(ctx, &c)
	return err
}

// ListMachines returns one page of the machines of a kind (empty: of every kind), by name.
func (s *State) ListMachines(ctx context.Context, kind identity.Kind, p Page) (Listing[Machine], error) {
	out := Listing[Machine]{}
	limit := p.Limit
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	for {
		got, err := machineNames.list(ctx, s, Page{After: p.After, Limit: limit})
		if err != nil {
			return out, err
		}
		for _, n := range got.Items {
			if kind != "" && n.Value.Kind != kind || !n.Value.Until.IsZero() {
				continue
			}
			m, err := s.Machine(ctx, n.Value.ID)
			if fault.Is(err, fault.NotFound) {
				continue // removed since the page was read
			}
			if err != nil {
				out.Unreadable = append(out.Unreadable, n.Key)
				continue
			}
			if out.Items = append(out.Items, m); len(out.Items) == limit {
				out.Next = n.Key
				return out, nil
			}
		}
		if got.Next == "" {
			return out, nil
		}
		p.After = got.Next
	}
}

const maxPage = 1000

// NodesByShortName returns the nodes whose name is label, or begins with label and a dot.
func (s *State) NodesByShortName(ctx context.Context, label string) ([]Machine, error) {
	var out []Machine
	if m, err := s.MachineByName(ctx, label); err == nil && m.Value.Kind == identity.Node {
		out = append(out, m.Value)
	}
	got, err := machineNames.listUnder(ctx, s, label+".", Page{})
	if err != nil {
		return nil, err
	}
	for _, n := range got.Items {
		if n.Value.Kind != identity.Node || !n.Value.Until.IsZero() || !strings.HasPrefix(n.Key, label+".") {
			continue
		}
		if m, err := s.Machine(ctx, n.Value.ID); err == nil {
			out = append(out, m.Value)
		}
	}
	return out, nil
}
