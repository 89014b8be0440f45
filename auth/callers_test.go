package auth

import (
	"context"
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore"
)

// call asks a route with an empty request, as far as the gate is concerned.
func call[Req, Res any](r authrpc.Route[Req, Res]) (string, func(context.Context, *authrpc.Client) error) {
	return r.Name, func(ctx context.Context, c *authrpc.Client) error {
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
}

type route struct {
	name string
	ask  func(context.Context, *authrpc.Client) error
	// who gets past the gate: anonymous, user, node, proxy
	anonymous, user, node, proxy bool
}

func routes() []route {
	var out []route
	add := func(who string) func(name string, ask func(context.Context, *authrpc.Client) error) {
		return func(name string, ask func(context.Context, *authrpc.Client) error) {
			r := route{name: name, ask: ask}
			for _, w := range who {
				r.anonymous, r.user, r.node, r.proxy = r.anonymous ||
					w == 'a', r.user ||
					w == 'u', r.node ||
					w == 'n', r.proxy ||
					w == 'p'
			}
			out = append(out, r)
		}
	}
	add("p")(call(authrpc.BeginLogin))
	add("p")(call(authrpc.FinishOIDC))
	add("p")(call(authrpc.ProveFactor))
	add("au")(call(authrpc.RedeemLogin))
	add("a")(call(authrpc.BeginHeadless))
	add("a")(call(authrpc.RedeemHeadless))
	add("a")(call(authrpc.Join))
	add("np")(call(authrpc.Renew))
	add("p")(call(authrpc.WatchRules))
	add("np")(call(authrpc.GetRules))
	add("p")(call(authrpc.ReportNodes))
	add("p")(call(authrpc.LocateNode))
	add("np")(call(authrpc.SendEvents))
	add("u")(call(authrpc.WhoAmI))
	add("u")(call(authrpc.GetAuthorities))
	add("u")(call(authrpc.ListNodes))
	add("u")(call(authrpc.GetResources))
	add("u")(call(authrpc.ApplyResource))
	add("u")(call(authrpc.RemoveResource))
	return out
}

// refusedByTable reports whether the gate itself refused, and not the room behind it.
func refusedByTable(err error, kind identity.Kind) bool {
	msg := fault.Message(orNil(err))
	return msg == "this needs a certificate" || msg == "a "+string(kind)+" certificate may not do this"
}

func orNil(err error) error {
	if err == nil {
		return fault.New(fault.Internal, "", "none", "")
	}
	return err
}

func TestWhoMayCallWhat(t *testing.T) {
	w := newTestServer(t)
	clients := map[identity.Kind]*authrpc.Client{
		authrpc.Anonymous: w.client(nil), identity.User: w.user("alice", "admin"),
		identity.Node: w.join(
			identity.Node,
			"web",
			nil,
		).Client, identity.Proxy: w.join(identity.Proxy, "edge", nil, "edge.example.org").Client,
	}
	for _, r := range routes() {
		may := map[identity.Kind]bool{
			authrpc.Anonymous: r.anonymous,
			identity.User:     r.user,
			identity.Node:     r.node,
			identity.Proxy:    r.proxy,
		}
		for kind, client := range clients {
			err := r.ask(t.Context(), client)
			if got := !refusedByTable(err, kind); got != may[kind] {
				t.Errorf("%s by %q: got let in %v (%v), want %v", r.name, kind, got, err, may[kind])
			}
			if err != nil && fault.Remedy(err) == "" {
				t.Errorf("%s by %q: refused with %v and no remedy", r.name, kind, err)
			}
		}
	}
}

// revision is that of the whole store.
func (w *testServer) revision() raftstore.Revision {
	w.t.Helper()
	l, err := w.auth.store.List(w.t.Context(), "no such prefix", raftstore.Page{})
	w.must(err)
	return l.Revision
}

func TestNoAnonymousCallWritesToTheStore(t *testing.T) {
	w := newTestServer(t)
	token, err := w.auth.Invite(t.Context(), identity.Node, nil, 0)
	w.must(err)
	before := w.revision()
	stranger := w.client(nil)
	for _, r := range routes() {
		if err := r.ask(t.Context(), stranger); err == nil {
			t.Errorf("%s: an empty request of a stranger was answered", r.name)
		}
	}
	unknown := token
	unknown.Secret[0] ^= 1
	forged, _ := w.request(unknown.String(), identity.Node, "web")
	for name, req := range map[string]authrpc.JoinRequest{"an unknown token": forged, "no token": {Token: "thjoin1"}, "garbage": {Token: "\x00", Kind: "auth"}} {
		if _, err := authrpc.Call(t.Context(), stranger, authrpc.Join, req); !fault.Is(err, fault.Denied) {
			t.Errorf("join with %s: got %v, want denied", name, err)
		}
	}
	r, _ := w.request(token.String(), identity.Node, "web")
	if _, err := authrpc.Call(t.Context(), stranger, authrpc.RedeemLogin, authrpc.RedeemLoginRequest{
		Code: "0123456789abcdef0123456789abcdef", Keys: authrpc.Keys{Verifier: "0123456789abcdef0123456789abcdef0123456789abcdef", SSHKey: r.SSHKey, X509Key: r.X509Key}}); err == nil {
		t.Error("an unknown code was redeemed")
	}
	if after := w.revision(); after != before {
		t.Errorf("got revision %d after strangers called, want %d as before", after, before)
	}
	// The same door writes for one who shows a good token.
	if _, err := authrpc.Call(t.Context(), stranger, authrpc.Join, r); err != nil || w.revision() == before {
		t.Errorf("got %v for a good token, want a machine on record", err)
	}
}

func TestAnExpiredMachineMayOnlyRenew(t *testing.T) {
	w := newTestServer(t)
	n := w.join(identity.Node, "web", nil)
	person := w.user("alice", "admin")
	w.advance(25 * time.Hour)
	for _, c := range []*authrpc.Client{n.Client, person} {
		c.Close()
	}
	if _, err := authrpc.Call(t.Context(), n.Client, authrpc.GetRules, authrpc.WatchRulesRequest{}); !fault.Is(
		err,
		fault.Expired,
	) {
		t.Errorf("rules with an ended certificate: got %v, want expired", err)
	}
	if _, err := authrpc.Call(t.Context(), person, authrpc.WhoAmI, authrpc.WhoAmIRequest{}); !fault.Is(
		err,
		fault.Expired,
	) ||
		fault.Remedy(err) != "run: tsh login" {
		t.Errorf("whoami with an ended certificate: got %v, want expired and: run: tsh login", err)
	}
	res, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, authrpc.RenewRequest{Time: w.now()})
	w.must(err)
	fresh := w.client(&tls.Certificate{Certificate: res.X509, PrivateKey: n.key})
	if _, err := authrpc.Call(t.Context(), fresh, authrpc.GetRules, authrpc.WatchRulesRequest{}); err != nil {
		t.Errorf("rules with the renewed certificate: got %v", err)
	}
}

func TestARemovedMachineMayDoNothing(t *testing.T) {
	w := newTestServer(t)
	n := w.join(identity.Node, "web", nil)
	if _, err := authrpc.Call(t.Context(), n.Client, authrpc.GetRules, authrpc.WatchRulesRequest{}); err != nil {
		t.Fatalf("a member: got %v", err)
	}
	_, err := authrpc.Call(
		t.Context(),
		w.user("alice", "admin"),
		authrpc.RemoveResource,
		authrpc.RemoveResourceRequest{Kind: "machines", Name: "web"},
	)
	w.must(err)
	for name, ask := range map[string]func() error{
		"rules": func() error {
			_, err := authrpc.Call(t.Context(), n.Client, authrpc.GetRules, authrpc.WatchRulesRequest{})
			return err
		},
		"renew": func() error {
			_, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, authrpc.RenewRequest{Time: w.now()})
			return err
		},
		"events": func() error {
			_, err := authrpc.Call(t.Context(), n.Client, authrpc.SendEvents, authrpc.SendEventsRequest{})
			return err
		},
	} {
		if err := ask(); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
			t.Errorf("%s after removal: got %v, want denied with a remedy", name, err)
		}
	}
}

// What an administrator takes from a person counts at auth at once, whatever their certificate says for hours
// more.
func TestACertificateGrantsNoMoreThanTheRecord(t *testing.T) {
	w := newTestServer(t)
	root, alice, bob := w.user("root", "admin"), w.user("alice", "admin", "viewer"), w.user("bob", "viewer")
	whoami := func(c *authrpc.Client) ([]string, error) {
		res, err := authrpc.Call(t.Context(), c, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
		return res.Identity.Roles, err
	}
	roles := authrpc.GetResourcesRequest{Kind: "roles"}
	if _, err := authrpc.Call(t.Context(), alice, authrpc.GetResources, roles); err != nil {
		t.Fatalf("an administrator: got %v", err)
	}
	// Alice's provider calls her a viewer alone at her next login, by whatever machine.
	w.user("alice", "viewer")
	if got, err := whoami(alice); err != nil || len(got) != 1 || got[0] != "viewer" {
		t.Errorf("got roles %v, %v by the older certificate, want viewer", got, err)
	}
	if _, err := authrpc.Call(t.Context(), alice, authrpc.GetResources, roles); !fault.Is(
		err,
		fault.Denied,
	) ||
		fault.Remedy(err) == "" {
		t.Errorf("reading roles by the older certificate: got %v, want denied with a remedy", err)
	}
	_, err := authrpc.Call(
		t.Context(),
		root,
		authrpc.RemoveResource,
		authrpc.RemoveResourceRequest{Kind: "users", Name: "corp/sub-bob"},
	)
	w.must(err)
	for _, r := range routes() {
		if !r.user || r.name == authrpc.RedeemLogin.Name {
			continue
		}
		if err := r.ask(t.Context(), bob); !fault.Is(err, fault.Denied) ||
			fault.Remedy(err) != "run: tsh login" {
			t.Errorf("%s by a user who was removed: got %v, want denied and: run: tsh login", r.name, err)
		}
	}
	// The certificate of before is no obstacle to a new login.
	if _, err := authrpc.Call(t.Context(), bob, authrpc.RedeemLogin, authrpc.RedeemLoginRequest{}); fault.Is(
		err,
		fault.Denied,
	) {
		t.Errorf("redeeming a login: got %v, want it judged by itself", err)
	}
}

// A certificate that is pinned to a network, as one of a headless login, asks nothing of auth from another.
func TestAPinnedCertificateWorksOnlyFromItsNetwork(t *testing.T) {
	w := newTestServer(t)
	w.user("alice", "admin")
	from := func(network string) *authrpc.Client {
		r := userRequest(userIdentity(w.auth.Cluster(), "alice", "admin"))
		r.SourceAddress = []netip.Prefix{netip.MustParsePrefix(network)}
		return w.client(w.sign(r, newKey(t), w.now()))
	}
	if _, err := authrpc.Call(t.Context(), from("127.0.0.0/8"), authrpc.WhoAmI, authrpc.WhoAmIRequest{}); err != nil {
		t.Errorf("from its network: got %v", err)
	}
	stolen := from("192.0.2.7/32")
	for _, r := range routes() {
		if !r.user || r.name == authrpc.RedeemLogin.Name {
			continue
		}
		if err := r.ask(t.Context(), stolen); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" ||
			!strings.Contains(fault.Message(err), "192.0.2.7") {
			t.Errorf("%s from another network: got %v, want denied with a remedy", r.name, err)
		}
	}
}

func TestARemovedConnectorAuthenticatesNobody(t *testing.T) {
	w := newTestServer(t)
	who := userIdentity("example.com", "eve", "viewer")
	who.Connector = "old"
	w.must(
		w.state().Users.PutUser(t.Context(), state.Stored[state.User]{}, state.User{Connector: "old", Subject: who.Subject, Mapped: who.Roles}),
	)
	eve := w.client(w.sign(ca.Request{Profile: ca.User, Identity: who}, newKey(t), w.now()))
	if _, err := authrpc.Call(t.Context(), eve, authrpc.WhoAmI, authrpc.WhoAmIRequest{}); !fault.Is(
		err,
		fault.Denied,
	) {
		t.Errorf("got %v for a person of a connector that is gone, want denied", err)
	}
}

// A stream that was open when its proxy was removed ends with the next head, and no clock brings a removed
// machine back.
func TestARemovedMachineLosesItsStreamAndCannotRenew(t *testing.T) {
	w := newTestServer(t)
	p := w.join(identity.Proxy, "edge", nil, "edge.example.org")
	root := w.user("root", "admin")
	got, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		ended <- authrpc.Stream(t.Context(), p.Client, authrpc.WatchRules, authrpc.WatchRulesRequest{}, func(authrpc.RulesUpdate) error {
			got <- struct{}{}
			return nil
		})
	}()
	<-got
	_, err := authrpc.Call(
		t.Context(),
		root,
		authrpc.RemoveResource,
		authrpc.RemoveResourceRequest{Kind: "machines", Name: "edge"},
	)
	w.must(err)
	w.must(w.auth.services.publisher.Publish(t.Context()))
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the stream of a removed proxy goes on")
	}
	w.advance(25 * time.Hour)
	if _, err := authrpc.Call(t.Context(), w.client(p.cert()), authrpc.Renew, authrpc.RenewRequest{Time: w.now()}); !fault.Is(
		err,
		fault.Denied,
	) {
		t.Errorf("renewing the ended certificate of a removed proxy: got %v, want denied", err)
	}
}
