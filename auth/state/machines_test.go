package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
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

// token stores one under the name.
func token(t *testing.T, s *State, name string) Stored[Token] {
	t.Helper()
	_, err := s.Tokens.AddToken(
		t.Context(),
		name,
		Token{
			Hash:    []byte(name),
			Kind:    identity.Node,
			Created: time.Now(),
			Expires: time.Now().Add(time.Minute),
		},
	)
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

func TestAddMachineClaimsNameAndTokenTogether(t *testing.T) {
	s := open(t)
	one := token(t, s, "one")
	web := newMachine(identity.Node, "web")
	must(t, s.Machines.AddMachine(t.Context(), web, one, audit.Event{Code: audit.MachineJoined, Time: time.Now()}))
	if err := s.Machines.AddMachine(t.Context(), newMachine(identity.Node, "db"), one); !fault.Is(
		err,
		fault.Conflict,
	) {
		t.Errorf("the token again: got %v, want a conflict", err)
	}
	if _, err := s.MachineByName(t.Context(), "db"); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want no machine of a refused transaction", err)
	}
	two := token(t, s, "two")
	if err := s.Machines.AddMachine(t.Context(), newMachine(identity.Node, "web"), two); !fault.Is(
		err,
		fault.Conflict,
	) {
		t.Errorf("the name again: got %v, want a conflict", err)
	}
	spent, err := s.Token(t.Context(), "one")
	must(t, err)
	unspent, err := s.Token(t.Context(), "two")
	must(t, err)
	if spent.Value.UsedBy != web.ID || !unspent.Value.Used.IsZero() {
		t.Errorf("got %+v and %+v, want the first spent by web, the second not", spent.Value, unspent.Value)
	}
	got, err := s.MachineByName(t.Context(), "web")
	must(t, err)
	if got.Value.ID != web.ID {
		t.Errorf("got %s, want %s", got.Value.ID, web.ID)
	}
}

func TestTokenEndsWithItsLease(t *testing.T) {
	s := open(t)
	tok := token(t, s, "one")
	must(t, s.Tokens.CountRefusal(t.Context(), tok)) // a change must not free it from its lease
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

func TestRemovedNamesStayReserved(t *testing.T) {
	s := open(t)
	must(
		t,
		s.Machines.AddMachine(
			t.Context(),
			newMachine(identity.Proxy, "edge", "access.example.com"),
			token(t, s, "one"),
		),
	)
	for name, kinds := range map[string][2]bool{"edge": {true, true}, "access.example.com": {true, false}, "free": {false, false}} {
		for i, kind := range []identity.Kind{identity.Node, identity.Proxy} {
			if got, err := s.NameTaken(t.Context(), name, kind, time.Now()); err != nil || got != kinds[i] {
				t.Errorf("%s for a %s: got taken %v (%v), want %v", name, kind, got, err, kinds[i])
			}
		}
	}
	edge, err := s.MachineByName(t.Context(), "edge")
	must(t, err)
	must(t, s.Machines.RemoveMachine(t.Context(), edge, time.Now()))
	for name, want := range map[string]bool{"edge": true, "access.example.com": false} {
		if got, err := s.NameTaken(t.Context(), name, identity.Node, time.Now()); err != nil || got != want {
			t.Errorf("%s after removal: got taken %v (%v), want %v", name, got, err, want)
		}
	}
	if got, err := s.NameTaken(t.Context(), "edge", identity.Node, time.Now().Add(NameReservation+time.Second)); err != nil ||
		got {
		t.Errorf("edge a day later: got taken %v (%v), want free", got, err)
	}
	late := newMachine(identity.Node, "edge")
	late.Created = time.Now().Add(NameReservation + time.Second)
	must(t, s.Machines.AddMachine(t.Context(), late, token(t, s, "two")))
}

func TestListMachinesPagesByNameAndKind(t *testing.T) {
	s := open(t)
	for i := range 5 {
		kind := identity.Node
		if i == 2 {
			kind = identity.Proxy
		}
		must(
			t,
			s.Machines.AddMachine(t.Context(), newMachine(kind, fmt.Sprintf("m-%d", i)), token(t, s, fmt.Sprint(i))),
		)
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

func TestAttachmentsEndWithTheProxyLease(t *testing.T) {
	s := open(t)
	web := newMachine(identity.Node, "web")
	must(t, s.Machines.AddMachine(t.Context(), web, token(t, s, "one")))
	proxy := identity.MachineID(NewID())
	kept, err := s.Attachments.KeepProxyLease(t.Context(), proxy, time.Minute)
	if err != nil || kept {
		t.Fatalf("got kept %v, %v, want a new lease", kept, err)
	}
	a := Attachment{Node: web.ID, ProxyID: proxy, Proxy: "edge", Since: time.Now()}
	must(t, s.Attachments.ChangeAttachments(t.Context(), proxy, []Attachment{a}, nil, time.Now()))
	if kept, err := s.Attachments.KeepProxyLease(t.Context(), proxy, time.Minute); err != nil || !kept {
		t.Errorf("got kept %v, %v, want the lease kept", kept, err)
	}
	of, err := s.AttachmentsByNode(t.Context(), web.ID)
	must(t, err)
	to, err := s.AttachmentsByProxy(t.Context(), proxy)
	must(t, err)
	if len(of) != 1 || len(to) != 1 {
		t.Errorf("got %v and %v, want the attachment by node and by proxy", of, to)
	}
	lease, err := proxyLeases.get(t.Context(), s.Reader, string(proxy))
	must(t, err)
	must(t, s.writer.store.Revoke(t.Context(), lease.Value.Lease)) // as when the proxy is silent for too long
	of, err = s.AttachmentsByNode(t.Context(), web.ID)
	must(t, err)
	to, err = s.AttachmentsByProxy(t.Context(), proxy)
	must(t, err)
	if len(of)+len(to) != 0 {
		t.Errorf("got %v and %v after the lease, want none", of, to)
	}
	if seen, err := s.LastSeen(t.Context(), web.ID); err != nil || seen.IsZero() {
		t.Errorf("got last seen %s, %v, want a time", seen, err)
	}
}

func TestManyAttachmentsFitTheirTransactions(t *testing.T) {
	s := open(t)
	proxy := identity.MachineID(NewID())
	_, err := s.Attachments.KeepProxyLease(t.Context(), proxy, time.Minute)
	must(t, err)
	many := make([]Attachment, 2*attachmentsPerTxn+1)
	for i := range many {
		many[i] = Attachment{
			Node:    identity.MachineID(fmt.Sprintf("%032x", i)),
			ProxyID: proxy,
			Proxy:   "edge",
			Since:   time.Now(),
		}
		many[i].Signed.Payload, many[i].Signed.Sig = make([]byte, 300), make([]byte, 72)
	}
	must(t, s.Attachments.ChangeAttachments(t.Context(), proxy, many, nil, time.Now()))
	to, err := s.AttachmentsByProxy(t.Context(), proxy)
	if err != nil || len(to) != len(many) {
		t.Errorf("got %d and %v, want %d", len(to), err, len(many))
	}
	must(t, s.Attachments.ChangeAttachments(t.Context(), proxy, nil, many, time.Now()))
	if to, err = s.AttachmentsByProxy(t.Context(), proxy); err != nil || len(to) != 0 {
		t.Errorf("got %d and %v, want none", len(to), err)
	}
}

func TestRoleSetFollowsEveryChange(t *testing.T) {
	s := open(t)
	if _, err := s.RoleSet(t.Context()); !fault.Is(err, fault.NotFound) {
		t.Errorf("unborn: got %v, want not found", err)
	}
	rev, err := s.Roles.PutRole(t.Context(), Stored[access.Role]{}, access.Role{Name: "one"}, time.Now())
	must(t, err)
	book, err := s.RoleSet(t.Context())
	must(t, err)
	if book.Revision != rev || len(book.Policy) != 1 {
		t.Errorf("got %+v, want the role at revision %d", book, rev)
	}
	if again, err := s.RoleSet(t.Context()); err != nil || again != book {
		t.Errorf("got another book though nothing changed (%v)", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- s.AwaitRules(t.Context(), rev) }()
	old, err := s.Role(t.Context(), "one")
	must(t, err)
	must(t, s.Roles.RemoveRole(t.Context(), old, time.Now()))
	must(t, <-waited)
	if book, err = s.RoleSet(t.Context()); err != nil || len(book.Policy) != 0 || book.Revision <= rev {
		t.Errorf("got %+v, %v, want no role", book, err)
	}
}

func TestKeyringSaveComparesBeforeItReplaces(t *testing.T) {
	s := open(t)
	k := s.Keyring
	if _, err := k.Load(t.Context()); !fault.Is(err, fault.NotFound) || fault.Remedy(err) == "" {
		t.Errorf("unborn: got %v, want not found with a remedy", err)
	}
	must(t, k.Save(t.Context(), nil, []byte(`{"v":1}`)))
	for name, old := range map[string][]byte{"as if unborn": nil, "another": []byte(`{"v":2}`)} {
		if err := k.Save(t.Context(), old, []byte(`{"v":3}`)); !fault.Is(err, fault.Conflict) {
			t.Errorf("%s: got %v, want a conflict", name, err)
		}
	}
	must(t, k.Save(t.Context(), []byte(`{"v":1}`), []byte(`{"v":2}`)))
	if got, err := k.Load(t.Context()); err != nil || string(got) != `{"v":2}` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestReplicaIDIsStable(t *testing.T) {
	s := open(t)
	one, err := s.Replicas.Replica(t.Context(), "auth-1")
	must(t, err)
	again, err := s.Replicas.Replica(t.Context(), "auth-1")
	must(t, err)
	other, err := s.Replicas.Replica(t.Context(), "auth-2")
	must(t, err)
	if one != again || one == other || identity.CheckMachineID(one) != nil {
		t.Errorf("got %s, %s and %s, want one for each replica", one, again, other)
	}
}
