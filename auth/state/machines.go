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

// Machine is the record of a node or proxy. A renewed certificate says what is in this record, and nothing
// else.
type Machine struct {
	ID      identity.MachineID `json:"id"`
	Kind    identity.Kind      `json:"kind"`
	Name    string             `json:"name"`
	Labels  identity.Labels    `json:"labels,omitempty"`
	SSHKey  []byte             `json:"ssh_key"`           // host key, SSH wire format
	X509Key []byte             `json:"x509_key"`          // PKIX DER
	Names   []string           `json:"names,omitempty"`   // of a proxy: its public host names and addresses
	Aliases []string           `json:"aliases,omitempty"` // those of Names that no node may be called
	Created time.Time          `json:"created"`
	Renewed time.Time          `json:"renewed"` // when its certificates were last issued
}

// Identity returns the identity that the machine's certificates carry.
func (m Machine) Identity(cluster string) identity.Identity {
	return identity.Identity{Kind: m.Kind, Cluster: cluster, Name: m.Name, ID: m.ID, Labels: m.Labels}
}

// nameRecord says which machine has a name. The name of a removed machine stays reserved until Until.
type nameRecord struct {
	ID    identity.MachineID `json:"id"`
	Kind  identity.Kind      `json:"kind"`
	Until time.Time          `json:"until,omitzero"` // zero: in use
}

// free reports whether another machine may take the name.
func (h nameRecord) free(now time.Time) bool { return !h.Until.IsZero() && !now.Before(h.Until) }

// publicNameRecord says which proxies have a public name. Several may, behind one address.
type publicNameRecord struct {
	Proxies []identity.MachineID `json:"proxies"`
}

var (
	machines     = table[Machine]{prefix: "machine/", noun: "machine", remedy: "run: tsh ls"}
	machineNames = table[nameRecord]{prefix: "name/", noun: "machine named", remedy: "run: tsh ls"}
	publicNames  = table[publicNameRecord]{prefix: "public-name/", noun: "public name", remedy: "run: tsh ls"}
)

// NameReservation is how long nobody can take the name of a removed machine: as long as a certificate with
// that name may live.
const NameReservation = identity.MaxLifetime

// Machine returns the machine with the id, or fault NotFound.
func (r *Reader) Machine(ctx context.Context, id identity.MachineID) (Stored[Machine], error) {
	return machines.get(ctx, r, string(id))
}

// MachineByName returns the node or proxy that has the name, or fault NotFound.
func (r *Reader) MachineByName(ctx context.Context, name string) (Stored[Machine], error) {
	h, err := machineNames.get(ctx, r, name)
	if err != nil {
		return Stored[Machine]{}, err
	}
	return r.Machine(ctx, h.Value.ID)
}

// NameTaken reports whether a new machine of the kind cannot have the name. Another machine has it, or it is
// reserved after a removal, or (for a node) it is a public name of a proxy.
func (r *Reader) NameTaken(
	ctx context.Context, name string, kind identity.Kind, now time.Time,
) (bool, error) {
	h, err := machineNames.getOrNew(ctx, r, name)
	if err != nil || h.Revision != 0 && !h.Value.free(now) {
		return true, err
	}
	p, err := publicNames.getOrNew(ctx, r, name)
	return kind == identity.Node && len(p.Value.Proxies) > 0, err
}

// maxPage is the largest page of machines, and the default.
const maxPage = 1000

// ListMachines returns one page of the machines of a kind, by name. An empty kind means every kind.
func (r *Reader) ListMachines(ctx context.Context, kind identity.Kind, p Page) (Listing[Machine], error) {
	out := Listing[Machine]{}
	limit := p.Limit
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	for {
		got, err := machineNames.list(ctx, r, Page{After: p.After, Limit: limit})
		if err != nil {
			return out, err
		}
		for _, n := range got.Items {
			if kind != "" && n.Value.Kind != kind || !n.Value.Until.IsZero() {
				continue
			}
			m, err := r.Machine(ctx, n.Value.ID)
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

// NodesByShortName returns the nodes whose name is short, or begins with short and a dot.
func (r *Reader) NodesByShortName(ctx context.Context, short string) ([]Machine, error) {
	var out []Machine
	if m, err := r.MachineByName(ctx, short); err == nil && m.Value.Kind == identity.Node {
		out = append(out, m.Value)
	}
	got, err := machineNames.listUnder(ctx, r, short+".", Page{})
	if err != nil {
		return nil, err
	}
	for _, n := range got.Items {
		if n.Value.Kind != identity.Node || !n.Value.Until.IsZero() || !strings.HasPrefix(n.Key, short+".") {
			continue
		}
		if m, err := r.Machine(ctx, n.Value.ID); err == nil {
			out = append(out, m.Value)
		}
	}
	return out, nil
}

// Machines adds, changes and removes machines, and reads.
type Machines struct{ writer }

// AddMachine stores a new machine under its name and marks the token that admits it as used, in one
// transaction. Fault Conflict means that the name or the token were taken at the same time: the caller reads
// both again.
func (w *Machines) AddMachine(
	ctx context.Context, m Machine, token Stored[Token], events ...audit.Event,
) error {
	var c change
	machines.create(&c, string(m.ID), m)
	if err := w.claimName(ctx, &c, m); err != nil {
		return err
	}
	if err := w.claimPublicNames(ctx, &c, m); err != nil {
		return err
	}
	used := token.Value
	used.Used, used.UsedBy = m.Created, m.ID
	tokens.replace(&c, token, used)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}

// claimName takes the machine's name, which must be free. For a node it must not be a public name either; the
// condition holds until the commit, so that no proxy can take the name in between.
func (w *Machines) claimName(ctx context.Context, c *change, m Machine) error {
	h, err := machineNames.getOrNew(ctx, w.Reader, m.Name)
	if err != nil {
		return err
	}
	if h.Revision != 0 && !h.Value.free(m.Created) {
		msg := "the name " + m.Name + " is taken"
		return fault.New(fault.Conflict, "state.AddMachine", msg, "choose another name")
	}
	if m.Kind == identity.Node {
		publicNames.requireMissing(c, m.Name)
	}
	machineNames.replaceOrCreate(c, h, nameRecord{ID: m.ID, Kind: m.Kind})
	return nil
}

// claimPublicNames stores a proxy's public names. It refuses the name of a node, whose host certificate would
// be valid for the proxy.
func (w *Machines) claimPublicNames(ctx context.Context, c *change, m Machine) error {
	for _, n := range m.Aliases {
		h, err := machineNames.getOrNew(ctx, w.Reader, n)
		if err != nil {
			return err
		}
		if h.Revision != 0 && h.Value.Kind == identity.Node {
			return fault.New(fault.Denied, "state.AddMachine", "the public name "+n+" is the name of a node",
				"give the proxy another public name, or remove the node first")
		}
		if n != m.Name {
			if h.Revision == 0 {
				machineNames.requireMissing(c, n)
			} else {
				machineNames.requireUnchanged(c, h)
			}
		}
		p, err := publicNames.getOrNew(ctx, w.Reader, n)
		if err != nil {
			return err
		}
		proxies := append(slices.Clone(p.Value.Proxies), m.ID)
		publicNames.replaceOrCreate(c, p, publicNameRecord{Proxies: proxies})
	}
	return nil
}

// ChangeMachine writes next over old and returns the new revision. Id, kind, name and keys cannot change.
func (w *Machines) ChangeMachine(
	ctx context.Context, old Stored[Machine], next Machine, events ...audit.Event,
) (uint64, error) {
	next.ID, next.Kind, next.Name = old.Value.ID, old.Value.Kind, old.Value.Name
	next.SSHKey, next.X509Key = old.Value.SSHKey, old.Value.X509Key
	var c change
	machines.replace(&c, old, next)
	c.appendEvents(events...)
	r, err := w.commit(ctx, &c)
	return r.Revision, err
}

// RecordRenewal stores when the machine's certificates were issued.
func (w *Machines) RecordRenewal(
	ctx context.Context, id identity.MachineID, now time.Time, events ...audit.Event,
) error {
	return retryOnConflict(func() error {
		old, err := w.Machine(ctx, id)
		if err != nil {
			return err
		}
		next := old.Value
		next.Renewed = now.UTC()
		_, err = w.ChangeMachine(ctx, old, next, events...)
		return err
	})
}

// RemoveMachine removes a machine and reserves its name. Its certificates can no longer be renewed.
func (w *Machines) RemoveMachine(
	ctx context.Context, old Stored[Machine], now time.Time, events ...audit.Event,
) error {
	var c change
	machines.remove(&c, old)
	lastSeen.deleteKey(&c, old.Key)
	reserved := nameRecord{ID: old.Value.ID, Kind: old.Value.Kind, Until: now.UTC().Add(NameReservation)}
	machineNames.set(&c, old.Value.Name, reserved)
	for _, n := range old.Value.Aliases {
		p, err := publicNames.getOrNew(ctx, w.Reader, n)
		if err != nil {
			return err
		}
		isOld := func(id identity.MachineID) bool { return id == old.Value.ID }
		rest := slices.DeleteFunc(slices.Clone(p.Value.Proxies), isOld)
		if p.Revision != 0 && len(rest) == 0 {
			publicNames.remove(&c, p)
		} else if p.Revision != 0 {
			publicNames.replace(&c, p, publicNameRecord{Proxies: rest})
		}
	}
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}
