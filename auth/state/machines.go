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
	ID      identity.NodeID `json:"id"`
	Kind    identity.Kind   `json:"kind"`
	Name    string          `json:"name"`
	Labels  identity.Labels `json:"labels,omitempty"`
	SSHKey  []byte          `json:"ssh_key"`           // host key, SSH wire format
	X509Key []byte          `json:"x509_key"`          // PKIX DER
	Names   []string        `json:"names,omitempty"`   // proxy: the public host names and addresses it answers to
	Aliases []string        `json:"aliases,omitempty"` // proxy: the host names among Names in the form of machine names; no node may have one
	Created time.Time       `json:"created"`
	Renewed time.Time       `json:"renewed"` // when its certificates were last issued
}

// Identity is what the machine's certificates say.
func (m Machine) Identity(cluster string) identity.Identity {
	return identity.Identity{Kind: m.Kind, Cluster: cluster, Name: m.Name, ID: m.ID, Labels: m.Labels}
}

// holder says whose a name is. A name of a removed machine stays reserved until Until.
type holder struct {
	ID    identity.NodeID `json:"id"`
	Kind  identity.Kind   `json:"kind"`
	Until time.Time       `json:"until,omitzero"` // zero: in use
}

// public says which proxies answer to a public name; several may, behind one address.
type public struct {
	Proxies []identity.NodeID `json:"proxies"`
}

var (
	machines = table[Machine]{prefix: "machine/", what: "machine", remedy: "run: tsh ls"}
	names    = table[holder]{prefix: "name/", what: "machine named", remedy: "run: tsh ls"}
	publics  = table[public]{prefix: "public/", what: "public name", remedy: "run: tsh ls"}
)

// NameReserved is how long the name of a removed machine can be taken by no other: as long as a certificate with that name may live.
const NameReserved = identity.MaxLife

// Machine returns the machine with the id.
func (s *State) Machine(ctx context.Context, id identity.NodeID) (Stored[Machine], error) {
	return machines.get(ctx, s, string(id))
}

// MachineByName returns the node or proxy that has the name now.
func (s *State) MachineByName(ctx context.Context, name string) (Stored[Machine], error) {
	h, err := names.get(ctx, s, name)
	if err != nil {
		return Stored[Machine]{}, err
	}
	return s.Machine(ctx, h.Value.ID)
}

// NameTaken reports whether a machine of the kind may not be called name: it is another's, reserved since a removal, or what proxies
// are reached by.
func (s *State) NameTaken(ctx context.Context, name string, kind identity.Kind, now time.Time) (bool, error) {
	h, err := names.getOrNew(ctx, s, name)
	if err != nil || h.Revision != 0 && !h.Value.free(now) {
		return true, err
	}
	p, err := publics.getOrNew(ctx, s, name)
	return kind == identity.Node && len(p.Value.Proxies) > 0, err
}

func (h holder) free(now time.Time) bool { return !h.Until.IsZero() && !now.Before(h.Until) }

// AddMachine stores a new machine under its name and spends the token that admits it, all or nothing. Fault Conflict means that name or
// token were taken meanwhile: look again.
func (s *State) AddMachine(ctx context.Context, m Machine, spent Stored[Token], events ...audit.Event) error {
	var c change
	machines.create(&c, string(m.ID), m)
	if err := s.takeName(ctx, &c, m); err != nil {
		return err
	}
	if err := s.takePublicNames(ctx, &c, m); err != nil {
		return err
	}
	used := spent.Value
	used.Used, used.UsedBy = m.Created, m.ID
	tokens.replace(&c, spent, used)
	c.record(events...)
	_, err := s.commit(ctx, &c)
	return err
}

func (s *State) takeName(ctx context.Context, c *change, m Machine) error {
	h, err := names.getOrNew(ctx, s, m.Name)
	if err != nil {
		return err
	}
	if h.Revision != 0 && !h.Value.free(m.Created) {
		return fault.New(fault.Conflict, "state.AddMachine", "the name "+m.Name+" is taken", "choose another name")
	}
	if m.Kind == identity.Node {
		publics.missing(c, m.Name)
	}
	names.replaceOrCreate(c, h, holder{ID: m.ID, Kind: m.Kind})
	return nil
}

// takePublicNames notes a proxy's public names, and refuses one that a node has: the node's host certificate would speak for the proxy.
func (s *State) takePublicNames(ctx context.Context, c *change, m Machine) error {
	for _, n := range m.Aliases {
		h, err := names.getOrNew(ctx, s, n)
		if err != nil {
			return err
		}
		if h.Revision != 0 && h.Value.Kind == identity.Node {
			return fault.New(fault.Denied, "state.AddMachine", "the public name "+n+" is a node's", "give the proxy another public name, or remove the node first")
		}
		if n != m.Name {
			if h.Revision == 0 {
				names.missing(c, n)
			} else {
				names.unchanged(c, h)
			}
		}
		p, err := publics.getOrNew(ctx, s, n)
		if err != nil {
			return err
		}
		publics.replaceOrCreate(c, p, public{Proxies: append(slices.Clone(p.Value.Proxies), m.ID)})
	}
	return nil
}

// ChangeMachine writes next over old; name, keys and id stay what they are.
func (s *State) ChangeMachine(ctx context.Context, old Stored[Machine], next Machine, events ...audit.Event) (uint64, error) {
	next.ID, next.Kind, next.Name, next.SSHKey, next.X509Key = old.Value.ID, old.Value.Kind, old.Value.Name, old.Value.SSHKey, old.Value.X509Key
	var c change
	machines.replace(&c, old, next)
	c.record(events...)
	r, err := s.commit(ctx, &c)
	return r.Revision, err
}

// NoteRenewal writes down when the machine's certificates were issued.
func (s *State) NoteRenewal(ctx context.Context, id identity.NodeID, now time.Time, events ...audit.Event) error {
	return retry(func() error {
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
func (s *State) RemoveMachine(ctx context.Context, old Stored[Machine], now time.Time, events ...audit.Event) error {
	var c change
	machines.remove(&c, old)
	lastSeen.drop(&c, old.Key)
	names.set(&c, old.Value.Name, holder{ID: old.Value.ID, Kind: old.Value.Kind, Until: now.UTC().Add(NameReserved)})
	for _, n := range old.Value.Aliases {
		p, err := publics.getOrNew(ctx, s, n)
		if err != nil {
			return err
		}
		rest := slices.DeleteFunc(slices.Clone(p.Value.Proxies), func(id identity.NodeID) bool { return id == old.Value.ID })
		if p.Revision != 0 && len(rest) == 0 {
			publics.remove(&c, p)
		} else if p.Revision != 0 {
			publics.replace(&c, p, public{Proxies: rest})
		}
	}
	c.record(events...)
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
		got, err := names.list(ctx, s, Page{After: p.After, Limit: limit})
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

// MachinesByFirstLabel returns the nodes whose name is label, or begins with label and a dot.
func (s *State) MachinesByFirstLabel(ctx context.Context, label string) ([]Machine, error) {
	var out []Machine
	if m, err := s.MachineByName(ctx, label); err == nil && m.Value.Kind == identity.Node {
		out = append(out, m.Value)
	}
	got, err := names.listUnder(ctx, s, label+".", Page{})
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
