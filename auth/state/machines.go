package state

import (
	"context"
	"encoding/json"
	"fmt"
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
	Kind    identity.Kind      `json:"kind"` // node or proxy
	Name    string             `json:"name"`
	Labels  identity.Labels    `json:"labels,omitempty"`
	SSHKey  []byte             `json:"ssh_key"`           // host key, SSH wire format
	X509Key []byte             `json:"x509_key"`          // PKIX DER
	Names   []string           `json:"names,omitempty"`   // of a proxy: its public host names and addresses
	Aliases []string           `json:"aliases,omitempty"` // of a proxy: machine names that no node may have
	Created time.Time          `json:"created"`
	Renewed time.Time          `json:"renewed"` // when its certificates were last issued
}

// Identity returns the identity that is in the machine's certificates.
func (m Machine) Identity(cluster string) identity.Identity {
	return identity.Identity{Kind: m.Kind, Cluster: cluster, Name: m.Name, ID: m.ID, Labels: m.Labels}
}

// nameRecord says which machine has a name, or had it: the name of a removed machine stays reserved until
// Until.
type nameRecord struct {
	ID    identity.MachineID `json:"id"`
	Kind  identity.Kind      `json:"kind"`
	Until time.Time          `json:"until,omitzero"` // zero: the machine has the name; else it was removed
}

// inUse reports whether the machine still has the name. Otherwise it was removed.
func (n nameRecord) inUse() bool { return n.Until.IsZero() }

// free reports whether a new machine may take the name: the last one was removed, and the reservation is
// over.
func (n nameRecord) free(now time.Time) bool { return !n.inUse() && !now.Before(n.Until) }

// publicNameRecord says which proxies have a public name. Several may, behind one address.
type publicNameRecord struct {
	Proxies []identity.MachineID `json:"proxies"`
}

var (
	machines     = table[Machine]{prefix: "machine/", noun: "machine", remedy: "run: tsh ls"}
	machineNames = table[nameRecord]{prefix: "name/", noun: "machine named", remedy: "run: tsh ls"}
	publicNames  = table[publicNameRecord]{prefix: "public-name/", noun: "public name", remedy: "run: tsh ls"}
)

// NameReservation is how long nobody can take the name of a removed machine: as long as a certificate that
// was issued to it may be valid. Otherwise two machines could have valid certificates for the same name.
const NameReservation = identity.MaxLifetime

// Machine returns the machine with the id, or fault NotFound.
func (r *Reader) Machine(ctx context.Context, id identity.MachineID) (Stored[Machine], error) {
	return machines.get(ctx, r, string(id))
}

// MachineByName returns the node or proxy that has the name. It returns fault NotFound if there is none, also
// while the name is reserved after a removal.
func (r *Reader) MachineByName(ctx context.Context, name string) (Stored[Machine], error) {
	owner, err := machineNames.get(ctx, r, name)
	if err != nil {
		return Stored[Machine]{}, err
	}
	return r.Machine(ctx, owner.Value.ID) // the record of a removed machine is gone
}

// NameTaken reports whether a new machine of the kind cannot have the name: another machine has it, or it is
// reserved after a removal, or, for a node, it is a public name of a proxy. With an error the result means
// nothing.
func (r *Reader) NameTaken(
	ctx context.Context, name string, kind identity.Kind, now time.Time,
) (bool, error) {
	owner, err := machineNames.getOrNew(ctx, r, name)
	if err != nil {
		return true, err
	}
	if exists := owner.Revision != 0; exists && !owner.Value.free(now) {
		return true, nil
	}
	public, err := publicNames.getOrNew(ctx, r, name)
	isPublic := len(public.Value.Proxies) > 0
	return kind == identity.Node && isPublic, err
}

// maxPage is the most machines that one page of ListMachines has, and the number for a Limit of zero.
const maxPage = 1000

// ListMachines returns one page of the machines of a kind, ordered by name. An empty kind means every kind. A
// limit of zero or above maxPage means maxPage. Next is the name after which the next page begins.
//
// Removed machines, whose names are only reserved, are left out. A machine whose record cannot be read is
// left out too, and its name is in Unreadable.
func (r *Reader) ListMachines(ctx context.Context, kind identity.Kind, page Page) (Listing[Machine], error) {
	out := Listing[Machine]{}
	limit := page.Limit
	if limit <= 0 || limit > maxPage {
		limit = maxPage
	}
	// It goes through the names, because the machine records are in the order of their ids. Names that are
	// left out leave room for more, so it may take several pages of names.
	for {
		names, err := machineNames.list(ctx, r, Page{After: page.After, Limit: limit})
		if err != nil {
			return out, err
		}
		for _, name := range names.Items {
			otherKind := kind != "" && name.Value.Kind != kind
			if otherKind || !name.Value.inUse() {
				continue
			}
			machine, err := r.Machine(ctx, name.Value.ID)
			if fault.Is(err, fault.NotFound) {
				continue // it was removed after the page of names was read
			}
			if err != nil {
				out.Unreadable = append(out.Unreadable, name.Key)
				continue
			}
			if out.Items = append(out.Items, machine); len(out.Items) == limit {
				out.Next = name.Key
				return out, nil
			}
		}
		if names.Next == "" {
			return out, nil
		}
		page.After = names.Next
	}
}

// NodesByShortName returns the nodes that have the given name, whole or as the first label of their name. It
// returns an empty list and no error if there is none. Nodes that cannot be read are left out, and so is what
// is beyond the first page of names.
func (r *Reader) NodesByShortName(ctx context.Context, short string) ([]Machine, error) {
	var out []Machine
	if node, err := r.MachineByName(ctx, short); err == nil && node.Value.Kind == identity.Node {
		out = append(out, node.Value)
	}
	names, err := machineNames.listUnder(ctx, r, short+".", Page{})
	if err != nil {
		return nil, err
	}
	for _, name := range names.Items {
		isNode := name.Value.Kind == identity.Node && name.Value.inUse()
		if !isNode || !strings.HasPrefix(name.Key, short+".") {
			continue
		}
		if node, err := r.Machine(ctx, name.Value.ID); err == nil {
			out = append(out, node.Value)
		}
	}
	return out, nil
}

// Machines adds, changes and removes machines, and reads.
type Machines struct{ writer }

// AddMachine stores a new machine with its name and its public names, and counts it among those that joined
// with the token, in one transaction with the events.
//
// Fault Conflict means that somebody took the name, or used or changed the token, since the caller read them:
// the caller reads both again. Fault Denied means that a public name is the name of a node.
func (w *Machines) AddMachine(
	ctx context.Context, machine Machine, token Stored[Token], events ...audit.Event,
) error {
	var c change
	machines.create(&c, string(machine.ID), machine)
	if err := w.claimName(ctx, &c, machine); err != nil {
		return err
	}
	if err := w.claimPublicNames(ctx, &c, machine); err != nil {
		return err
	}
	used := token.Value
	used.Joined = append(slices.Clone(used.Joined), JoinedMachine{ID: machine.ID, Time: machine.Created})
	tokens.replace(&c, token, used) // of two machines at the same time, the second gets fault Conflict
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}

// claimName adds to c that the machine takes its name, with the conditions under which it may. A name that
// another machine has, or that is reserved, is fault Conflict at once. A node also may not have a public name
// of a proxy; that is a condition of c, so the commit fails if a proxy takes the name before it.
func (w *Machines) claimName(ctx context.Context, c *change, machine Machine) error {
	owner, err := machineNames.getOrNew(ctx, w.Reader, machine.Name)
	if err != nil {
		return err
	}
	if exists := owner.Revision != 0; exists && !owner.Value.free(machine.Created) {
		return machineNameTaken.New("state.AddMachine", fault.Args{"name": machine.Name})
	}
	if machine.Kind == identity.Node {
		publicNames.requireMissing(c, machine.Name)
	}
	machineNames.replaceOrCreate(c, owner, nameRecord{ID: machine.ID, Kind: machine.Kind})
	return nil
}

// claimPublicNames adds to c that the proxy has its public names, with the conditions under which it may.
// It commits nothing. It does nothing for a node, which has none. Several proxies may have the same public
// name.
//
// A public name that is the name of a node, or was before the node was removed, is fault Denied: the node's
// host certificate would also be valid for the proxy, so the node could pass for it.
func (w *Machines) claimPublicNames(ctx context.Context, c *change, proxy Machine) error {
	for _, public := range proxy.Aliases {
		owner, err := machineNames.getOrNew(ctx, w.Reader, public)
		if err != nil {
			return err
		}
		exists := owner.Revision != 0
		if exists && owner.Value.Kind == identity.Node {
			return publicNameOfNode.New("state.AddMachine", fault.Args{"name": public})
		}
		// The commit must fail if a node takes the name before it. Where the public name is also the proxy's
		// own name, claimName has already put the same condition into c.
		if public != proxy.Name {
			if exists {
				machineNames.requireUnchanged(c, owner)
			} else {
				machineNames.requireMissing(c, public)
			}
		}
		old, err := publicNames.getOrNew(ctx, w.Reader, public)
		if err != nil {
			return err
		}
		proxies := append(slices.Clone(old.Value.Proxies), proxy.ID)
		publicNames.replaceOrCreate(c, old, publicNameRecord{Proxies: proxies})
	}
	return nil
}

// ChangeMachine writes next over old and returns the new revision. The id, kind, name and keys stay those of
// old, whatever next says. It returns fault Conflict if old is no longer what is stored.
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

// RecordRenewal stores that the machine's certificates were issued now, with their issuance records. A
// machine that was removed is fault NotFound.
func (w *Machines) RecordRenewal(
	ctx context.Context,
	id identity.MachineID,
	now time.Time,
	issued []json.RawMessage,
	events ...audit.Event,
) error {
	return retryOnConflict(func() error {
		old, err := w.Machine(ctx, id)
		if err != nil {
			return err
		}
		next := old.Value
		next.Renewed = now.UTC()
		var c change
		machines.replace(&c, old, next)
		c.appendIssuances(issued)
		c.appendEvents(events...)
		_, err = w.commit(ctx, &c)
		return err
	})
}

// RemoveMachine removes a machine and its public names, locks it, and reserves its name for NameReservation.
// It can no longer renew its certificates, and auth refuses its requests. It returns fault Conflict if old is
// no longer what is stored.
func (w *Machines) RemoveMachine(
	ctx context.Context, old Stored[Machine], by By, events ...audit.Event,
) error {
	var c change
	lock := lockOfRemoved(old.Value.ID, by.Time)
	lock.Message, lock.Author = fmt.Sprintf("the %s %s was removed", old.Value.Kind, old.Value.Name), by.Name
	if err := w.putLocks(ctx, &c, by.Time, lock); err != nil {
		return err
	}
	machines.remove(&c, old)
	lastSeen.deleteKey(&c, old.Key)
	spools.deleteKey(&c, old.Key)
	reserved := nameRecord{ID: old.Value.ID, Kind: old.Value.Kind, Until: by.Time.UTC().Add(NameReservation)}
	machineNames.set(&c, old.Value.Name, reserved)
	for _, name := range old.Value.Aliases {
		public, err := publicNames.getOrNew(ctx, w.Reader, name)
		if err != nil {
			return err
		}
		if public.Revision == 0 {
			continue // nobody has it
		}
		isOld := func(id identity.MachineID) bool { return id == old.Value.ID }
		others := slices.DeleteFunc(slices.Clone(public.Value.Proxies), isOld)
		if len(others) == 0 {
			publicNames.remove(&c, public)
		} else {
			publicNames.replace(&c, public, publicNameRecord{Proxies: others})
		}
	}
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}
