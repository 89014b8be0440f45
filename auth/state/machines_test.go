package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// token stores a join token and returns it as read.
func token(t *testing.T, s *State, name string) Stored[Token] {
	t.Helper()
	_, err := s.Tokens.AddToken(t.Context(), name, Token{
		Hash:    []byte(name),
		Kind:    identity.Node,
		Created: time.Now(),
		Expires: time.Now().Add(time.Minute),
	})
	must(t, err)
	got, err := s.Token(t.Context(), name)
	must(t, err)
	return got
}

func newMachine(kind identity.Kind, name string, aliases ...string) Machine {
	return Machine{
		ID:      identity.MachineID(NewID()),
		Kind:    kind,
		Name:    name,
		Aliases: aliases,
		Created: time.Now(),
	}
}

// A machine, its name and the use of its token are stored together: a token that is used or a name that is
// taken refuses the whole.
func TestAddMachineClaimsNameAndTokenTogether(t *testing.T) {
	t.Parallel()
	s := open(t)
	one := token(t, s, "one")
	web := newMachine(identity.Node, "web")
	join := audit.Join{Kind: identity.Node, Token: "one"}
	joined := audit.New(time.Now(), web.Identity("example.com"), join)
	must(t, s.Machines.AddMachine(t.Context(), web, one, joined))
	err := s.Machines.AddMachine(t.Context(), newMachine(identity.Node, "db"), one)
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("the token again: got %v, want a conflict", err)
	}
	if _, err := s.MachineByName(t.Context(), "db"); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want no machine of a refused transaction", err)
	}
	two := token(t, s, "two")
	err = s.Machines.AddMachine(t.Context(), newMachine(identity.Node, "web"), two)
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("the name again: got %v, want a conflict", err)
	}
	used, err := s.Token(t.Context(), "one")
	must(t, err)
	unused, err := s.Token(t.Context(), "two")
	must(t, err)
	if len(used.Value.Joined) != 1 || used.Value.Joined[0].ID != web.ID || len(unused.Value.Joined) != 0 {
		t.Errorf("got %+v and %+v, want the first used by web, the second not", used.Value, unused.Value)
	}
	got, err := s.MachineByName(t.Context(), "web")
	must(t, err)
	if got.Value.ID != web.ID {
		t.Errorf("got %s, want %s", got.Value.ID, web.ID)
	}
}

// The end of its lease removes a token and its hash. A change of the record in between must not lose the
// lease.
func TestTokenEndsWithItsLease(t *testing.T) {
	t.Parallel()
	s := open(t)
	tok := token(t, s, "one")
	must(t, s.Tokens.CountRefusal(t.Context(), tok)) // a change must keep the lease
	tok, err := s.Token(t.Context(), "one")
	must(t, err)
	if tok.item.Lease == 0 || tok.Value.Refused != 1 {
		t.Errorf("got lease %d, want one", tok.item.Lease)
	}
	must(t, s.writer.store.Revoke(t.Context(), tok.item.Lease))
	if _, err := s.Token(t.Context(), "one"); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v after the lease, want not found", err)
	}
	var hash [32]byte
	copy(hash[:], "one")
	if _, err := s.TokenByHash(t.Context(), hash); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v by hash, want not found", err)
	}
}

// The table has for each name whether it is taken for a node and for a proxy. After the proxy is removed, its
// name stays reserved for a while, and its public name is free at once.
func TestRemovedNamesStayReserved(t *testing.T) {
	t.Parallel()
	s := open(t)
	proxy := newMachine(identity.Proxy, "edge", "access.example.com")
	must(t, s.Machines.AddMachine(t.Context(), proxy, token(t, s, "one")))
	for name, kinds := range map[string][2]bool{
		"edge":               {true, true},
		"access.example.com": {true, false},
		"free":               {false, false},
	} {
		for i, kind := range []identity.Kind{identity.Node, identity.Proxy} {
			if got, err := s.NameTaken(t.Context(), name, kind, time.Now()); err != nil || got != kinds[i] {
				t.Errorf("%s for a %s: got taken %v (%v), want %v", name, kind, got, err, kinds[i])
			}
		}
	}
	edge, err := s.MachineByName(t.Context(), "edge")
	must(t, err)
	must(t, s.Machines.RemoveMachine(t.Context(), edge, byNow()))
	for name, want := range map[string]bool{"edge": true, "access.example.com": false} {
		if got, err := s.NameTaken(t.Context(), name, identity.Node, time.Now()); err != nil || got != want {
			t.Errorf("%s after removal: got taken %v (%v), want %v", name, got, err, want)
		}
	}
	later := time.Now().Add(NameReservation + time.Second)
	if got, err := s.NameTaken(t.Context(), "edge", identity.Node, later); err != nil || got {
		t.Errorf("edge after the reservation: got taken %v (%v), want free", got, err)
	}
	node := newMachine(identity.Node, "edge")
	node.Created = later
	must(t, s.Machines.AddMachine(t.Context(), node, token(t, s, "two")))
}

// Pages of one kind leave out the other machines and are in the order of names. The empty kind lists all.
func TestListMachinesPagesByNameAndKind(t *testing.T) {
	t.Parallel()
	s := open(t)
	for i := range 5 {
		kind := identity.Node
		if i == 2 {
			kind = identity.Proxy
		}
		m := newMachine(kind, fmt.Sprintf("m-%d", i))
		must(t, s.Machines.AddMachine(t.Context(), m, token(t, s, fmt.Sprint(i))))
	}
	var got []string
	for p := (Page{Limit: 3}); ; {
		page, err := s.ListMachines(t.Context(), identity.Node, p)
		must(t, err)
		for _, m := range page.Items {
			got = append(got, m.Value.Name)
		}
		if p.After = page.Next; p.After == "" {
			break
		}
	}
	if fmt.Sprint(got) != "[m-0 m-1 m-3 m-4]" {
		t.Errorf("got %v, want the nodes by name", got)
	}
	all, err := s.ListMachines(t.Context(), "", Page{})
	if err != nil || len(all.Items) != 5 {
		t.Errorf("got %d machines and %v, want 5", len(all.Items), err)
	}
}
