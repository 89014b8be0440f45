package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/raftstore"
)

// route is a route of the API, and which kinds of callers it accepts.
type route struct {
	name    string
	ask     func(context.Context, *authrpc.Client) error // with an empty request
	accepts []identity.Kind
}

// newRoute makes a route. A stream counts as answered with its first message.
func newRoute[Req, Res any](r authrpc.Route[Req, Res], accepts ...identity.Kind) route {
	ask := func(ctx context.Context, c *authrpc.Client) error {
		var req Req
		if r.Stream {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			err := authrpc.Stream(ctx, c, r, req, func(Res) error { cancel(); return nil })
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		_, err := authrpc.Call(ctx, c, r, req)
		return err
	}
	return route{name: r.Name, ask: ask, accepts: accepts}
}

func (r route) acceptsKind(kind identity.Kind) bool {
	for _, k := range r.accepts {
		if k == kind {
			return true
		}
	}
	return false
}

// routes are all routes. Who may call what is written down here a second time, so that no change of the
// table in authrpc goes unnoticed.
func routes() []route {
	const anonymous, user, node, proxy = authrpc.Anonymous, identity.User, identity.Node, identity.Proxy
	return []route{
		newRoute(authrpc.BeginLogin, proxy),
		newRoute(authrpc.FinishOIDC, proxy),
		newRoute(authrpc.ShowFactor, proxy),
		newRoute(authrpc.ProveFactor, proxy),
		newRoute(authrpc.RedeemLogin, anonymous, user),
		newRoute(authrpc.BeginHeadless, anonymous),
		newRoute(authrpc.RedeemHeadless, anonymous),
		newRoute(authrpc.Join, anonymous),
		newRoute(authrpc.Renew, node, proxy),
		newRoute(authrpc.WatchRules, proxy),
		newRoute(authrpc.GetRules, node, proxy),
		newRoute(authrpc.ReportNodes, proxy),
		newRoute(authrpc.ReportAcknowledgements, proxy),
		newRoute(authrpc.LocateNode, proxy),
		newRoute(authrpc.SendEvents, node),
		newRoute(authrpc.WhoAmI, user),
		newRoute(authrpc.GetAuthorities, user),
		newRoute(authrpc.GetMachineLocks, user),
		newRoute(authrpc.ListNodes, user),
		newRoute(authrpc.GetResources, user),
		newRoute(authrpc.ApplyResource, user),
		newRoute(authrpc.RemoveResource, user),
		newRoute(authrpc.LockConfirmations, user),
	}
}

// userRoutes are the routes for users but RedeemLogin, which asks nothing of the user's certificate.
func userRoutes() []route {
	var out []route
	for _, r := range routes() {
		if r.acceptsKind(identity.User) && r.name != authrpc.RedeemLogin.Name {
			out = append(out, r)
		}
	}
	return out
}

// refusedByTable reports whether the table of routes refused the caller, and not the handler.
func refusedByTable(err error, kind identity.Kind) bool {
	if err == nil {
		return false
	}
	msg := fault.Message(err)
	return msg == "this needs a certificate" || msg == "a "+string(kind)+" certificate may not do this"
}

// Every route answers the kinds of callers that it is for, and refuses all others.
func TestWhoMayCallWhat(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	clients := map[identity.Kind]*authrpc.Client{
		authrpc.Anonymous: s.client(nil),
		identity.User:     s.user("alice", "admin"),
		identity.Node:     s.join(identity.Node, "web", nil).Client,
		identity.Proxy:    s.join(identity.Proxy, "edge", nil, "edge.example.org").Client,
	}
	for _, r := range routes() {
		for kind, client := range clients {
			err := r.ask(t.Context(), client)
			if got, want := !refusedByTable(err, kind), r.acceptsKind(kind); got != want {
				t.Errorf("%s by %q: got accepted %v (%v), want %v", r.name, kind, got, err, want)
			}
			if err != nil && fault.Remedy(err) == "" {
				t.Errorf("%s by %q: refused with %v and no remedy", r.name, kind, err)
			}
		}
	}
}

// revision is the revision of the whole store.
func (s *testServer) revision() raftstore.Revision {
	s.t.Helper()
	l, err := s.auth.store.List(s.t.Context(), "no such prefix", raftstore.Page{})
	s.must(err)
	return l.Revision
}

// Calls without a certificate, valid token or login code do not change the revision of the store.
func TestNoAnonymousCallWritesToTheStore(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	token, err := s.auth.Invite(t.Context(), Invitation{Kind: identity.Node})
	s.must(err)
	before := s.revision()
	client := s.client(nil)
	for _, r := range routes() {
		if err := r.ask(t.Context(), client); err == nil {
			t.Errorf("%s: an empty anonymous request was answered", r.name)
		}
	}
	unknown := token
	unknown.Secret[0] ^= 1
	forged, _ := s.request(unknown.String(), identity.Node, "web")
	for name, req := range map[string]authrpc.JoinRequest{
		"an unknown token": forged,
		"no token":         {Token: "thjoin1"},
		"garbage":          {Token: "\x00", Kind: "auth"},
	} {
		if _, err := authrpc.Call(t.Context(), client, authrpc.Join, req); !fault.Is(err, fault.Denied) {
			t.Errorf("join with %s: got %v, want denied", name, err)
		}
	}
	r, _ := s.request(token.String(), identity.Node, "web")
	code := strings.Repeat("0123456789abcdef", 2)
	verifier := strings.Repeat("0123456789abcdef", 3)
	keys := authrpc.Keys{Verifier: verifier, SSHKey: r.SSHKey, X509Key: r.X509Key}
	redeem := authrpc.RedeemLoginRequest{Code: code, Keys: keys}
	if _, err := authrpc.Call(t.Context(), client, authrpc.RedeemLogin, redeem); err == nil {
		t.Error("an unknown code was redeemed")
	}
	if after := s.revision(); after != before {
		t.Errorf("got revision %d after anonymous calls, want %d as before", after, before)
	}
	// The same client with a valid token writes.
	if _, err := authrpc.Call(t.Context(), client, authrpc.Join, r); err != nil || s.revision() == before {
		t.Errorf("got %v with a valid token, want a machine on record", err)
	}
}

// With an expired certificate a machine gets new ones and nothing else. A user is told to log in.
func TestAnExpiredMachineMayOnlyRenew(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	n := s.join(identity.Node, "web", nil)
	user := s.user("alice", "admin")
	s.advance(25 * time.Hour)
	n.Client.Close()
	user.Close()
	_, err := authrpc.Call(t.Context(), n.Client, authrpc.GetRules, authrpc.WatchRulesRequest{})
	if !fault.Is(err, fault.Expired) {
		t.Errorf("rules with an expired certificate: got %v, want expired", err)
	}
	_, err = authrpc.Call(t.Context(), user, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
	if !fault.Is(err, fault.Expired) || fault.Remedy(err) != "run: tsh login" {
		t.Errorf("whoami with an expired certificate: got %v, want expired and: run: tsh login", err)
	}
	res, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, authrpc.RenewRequest{Time: s.now()})
	s.must(err)
	renewed := s.client(&tls.Certificate{Certificate: res.X509, PrivateKey: n.key})
	_, err = authrpc.Call(t.Context(), renewed, authrpc.GetRules, authrpc.WatchRulesRequest{})
	if err != nil {
		t.Errorf("rules with the renewed certificate: got %v", err)
	}
}

// A machine that was removed is refused, although its certificate is still valid.
func TestARemovedMachineMayDoNothing(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	n := s.join(identity.Node, "web", nil)
	asks := map[string]func() error{
		"rules": func() error {
			_, err := authrpc.Call(t.Context(), n.Client, authrpc.GetRules, authrpc.WatchRulesRequest{})
			return err
		},
		"renew": func() error {
			_, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, authrpc.RenewRequest{Time: s.now()})
			return err
		},
		"events": func() error {
			_, err := authrpc.Call(t.Context(), n.Client, authrpc.SendEvents, authrpc.SendEventsRequest{})
			return err
		},
	}
	if err := asks["rules"](); err != nil {
		t.Fatalf("a member: got %v", err)
	}
	s.must(s.remove(s.user("alice", "admin"), "nodes", "web"))
	for name, ask := range asks {
		if err := ask(); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
			t.Errorf("%s after removal: got %v, want denied with a remedy", name, err)
		}
	}
}

// What an administrator takes from a user counts at once, although the user's certificate is valid for hours.
func TestACertificateGrantsNoMoreThanTheRecord(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	root, alice, bob := s.user("root", "admin"), s.user("alice", "admin", "viewer"), s.user("bob", "viewer")
	roles := authrpc.GetResourcesRequest{Kind: "roles"}
	if _, err := authrpc.Call(t.Context(), alice, authrpc.GetResources, roles); err != nil {
		t.Fatalf("an administrator: got %v", err)
	}
	s.user("alice", "viewer") // a login elsewhere, at which the provider gives alice only this role
	me, err := authrpc.Call(t.Context(), alice, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
	if got := me.Identity.Roles; err != nil || len(got) != 1 || got[0] != "viewer" {
		t.Errorf("with the older certificate: got roles %v, %v, want viewer", got, err)
	}
	_, err = authrpc.Call(t.Context(), alice, authrpc.GetResources, roles)
	if !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
		t.Errorf("reading roles with the older certificate: got %v, want denied with a remedy", err)
	}
	s.must(s.remove(root, "users", "corp/sub-bob"))
	for _, r := range userRoutes() {
		err := r.ask(t.Context(), bob)
		if !fault.Is(err, fault.Denied) || fault.Remedy(err) != "run: tsh login" {
			t.Errorf("%s by a user who was removed: got %v, want denied and: run: tsh login", r.name, err)
		}
	}
	// The old certificate does not stand in the way of a new login.
	_, err = authrpc.Call(t.Context(), bob, authrpc.RedeemLogin, authrpc.RedeemLoginRequest{})
	if fault.Is(err, fault.Denied) {
		t.Errorf("redeeming a login: got %v, want it judged by the login alone", err)
	}
}

// A certificate may be bound to a network, as that of a headless login is.
func TestAPinnedCertificateWorksOnlyFromItsNetwork(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	s.user("alice", "admin")
	boundTo := func(network string) *authrpc.Client {
		r := userRequest(userIdentity(s.auth.Cluster(), "alice", "admin"))
		r.SourceAddress = []netip.Prefix{netip.MustParsePrefix(network)}
		return s.client(s.sign(r, newKey(t), s.now()))
	}
	_, err := authrpc.Call(t.Context(), boundTo("127.0.0.0/8"), authrpc.WhoAmI, authrpc.WhoAmIRequest{})
	if err != nil {
		t.Errorf("from its network: got %v", err)
	}
	stolen := boundTo("192.0.2.7/32")
	for _, r := range userRoutes() {
		err := r.ask(t.Context(), stolen)
		if !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" ||
			!strings.Contains(fault.Message(err), "192.0.2.7") {
			t.Errorf("%s from another network: got %v, want denied with a remedy", r.name, err)
		}
	}
}

func TestARemovedConnectorAuthenticatesNobody(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	who := userIdentity("example.com", "eve", "viewer")
	who.Connector = "old"
	u := state.User{Connector: "old", Subject: who.Subject, Mapped: who.Roles}
	s.must(s.state().Users.PutUser(t.Context(), state.Stored[state.User]{}, u, state.By{Time: time.Now()}))
	eve := s.client(s.sign(userRequest(who), newKey(t), s.now()))
	_, err := authrpc.Call(t.Context(), eve, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
	if !fault.Is(err, fault.Denied) {
		t.Errorf("a user of a removed connector: got %v, want denied", err)
	}
}

// An open stream of a removed proxy ends with the next head, and an expired certificate does not help to
// renew.
func TestARemovedMachineLosesItsStreamAndCannotRenew(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	p := s.join(identity.Proxy, "edge", nil, "edge.example.org")
	root := s.user("root", "admin")
	first, ended := make(chan struct{}, 1), make(chan error, 1)
	var pieces [][]byte // belongs to the goroutine until ended
	go func() {
		receive := func(u authrpc.RulesUpdate) error {
			pieces = append(pieces, u.Piece)
			select {
			case first <- struct{}{}:
			default:
			}
			return nil
		}
		req := authrpc.WatchRulesRequest{}
		ended <- authrpc.Stream(t.Context(), p.Client, authrpc.WatchRules, req, receive)
	}()
	select {
	case <-first:
	case err := <-ended:
		t.Fatalf("the stream of a member ended: %v", err)
	}
	s.must(s.remove(root, "proxies", "edge"))
	deadline := time.After(patience)
	for over := false; !over; { // each head is sent at once, and none later than lastRules after the removal
		s.must(s.auth.services.publisher.Publish(t.Context()))
		select {
		case <-ended:
			over = true
		case <-deadline:
			t.Fatal("the stream of a removed proxy goes on")
		case <-time.After(100 * time.Millisecond):
		}
	}
	n := bytes.Count(bytes.Join(pieces, nil), []byte(`"kind":"machine-locks"`))
	if n != 2 { // before the removal, and after it
		t.Error("the removed proxy did not hear of its lock")
	}
	s.advance(25 * time.Hour)
	renew := authrpc.RenewRequest{Time: s.now()}
	_, err := authrpc.Call(t.Context(), s.client(p.cert()), authrpc.Renew, renew)
	if !fault.Is(err, fault.Denied) {
		t.Errorf("renewing the expired certificate of a removed proxy: got %v, want denied", err)
	}
}

// Every user gets the signed locks of machines, and with them the lock of a machine that was removed.
func TestUsersGetTheLocksOfMachines(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	node := s.join(identity.Node, "web", nil)
	user := s.user("bob")
	chain, err := authrpc.Call(t.Context(), user, authrpc.GetAuthorities, authrpc.GetAuthoritiesRequest{})
	s.must(err)
	cluster, authorities, err := rules.OpenAuthorities(s.auth.Pin(), chain.Authorities)
	s.must(err)
	locks := func() rules.MachineLocks {
		res, err := authrpc.Call(t.Context(), user, authrpc.GetMachineLocks, authrpc.GetMachineLocksRequest{})
		s.must(err)
		got, err := rules.MachineLocks{}.Follow(cluster, authorities, res.MachineLocks)
		s.must(err)
		return got
	}
	before, id := locks(), node.res.Identity.ID
	if _, denied := before.Denied(id, s.now()); denied {
		t.Error("got a lock of a member, want none")
	}
	s.must(s.remove(s.user("root", "admin"), "nodes", "web"))
	s.must(s.auth.services.publisher.Publish(t.Context()))
	after := locks()
	if _, denied := after.Denied(id, s.now()); !denied || !before.Revision().Before(after.Revision()) {
		t.Errorf("got denied %v at revision %s, want the removed node locked", denied, after.Revision())
	}
}
