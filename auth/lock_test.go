package auth

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// lock makes a lock of a spec.
func (s *testServer) lock(by *authrpc.Client, spec string) error {
	s.t.Helper()
	r := authrpc.Resource{Kind: "lock", Version: "v1", Spec: json.RawMessage(spec)}
	req := authrpc.ApplyResourceRequest{Resource: r}
	_, err := authrpc.Call(s.t.Context(), by, authrpc.ApplyResource, req)
	return err
}

// A user whom a lock denies everything is refused on every route, and reads why, until when and whom to ask.
// The locks of others do not concern them, nor do locks about what they do on one node.
func TestALockedUserMayDoNothing(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	root := s.user("root", "admin")
	hourAgo := time.Now().UTC().Add(-time.Hour).Format(time.RFC3339)
	for name, lock := range map[string]struct {
		spec string // %s is the name of the user
		hits bool
	}{
		"user":             {`{"match":{"user":"%s"},"for":"2h","message":"laptop lost"}`, true},
		"user and role":    {`{"match":{"user":"%s","role":"viewer"},"for":"2h","message":"laptop lost"}`, true},
		"serial":           {`{"match":{"serial":"%d"},"for":"2h","message":"laptop lost"}`, true},
		"another serial":   {`{"match":{"serial":"7","user":"%s"}}`, false},
		"another role":     {`{"match":{"user":"%s","role":"ops"}}`, false},
		"an account":       {`{"match":{"user":"%s","account":"root"}}`, false},
		"a role of theirs": {`{"match":{"user":"%s"},"without_role":"viewer"}`, false},
		"issued long ago":  {`{"match":{"user":"%s","issued_before":"` + hourAgo + `"}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			user := strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), ",", "")
			key := newKey(t)
			other := s.user(user, "viewer")
			cert := s.sign(userRequest(userIdentity(s.auth.Cluster(), user, "viewer")), key, s.now())
			alice := s.client(cert)
			var arg any = "corp/sub-" + user
			if strings.Contains(lock.spec, "%d") {
				arg = cert.Leaf.SerialNumber.Uint64()
			}
			s.must(s.lock(root, fmt.Sprintf(lock.spec, arg)))
			for _, r := range userRoutes() {
				err := r.ask(t.Context(), alice)
				if !lock.hits {
					if fault.CodeOf(err) == "access-locked" {
						t.Errorf("%s: got %v, want it answered", r.name, err)
					}
					continue
				}
				if !fault.Is(err, fault.Denied) || fault.CodeOf(err) != "access-locked" {
					t.Errorf("%s: got %v, want denied by the lock", r.name, err)
				}
				text := fault.Message(err) + " " + fault.Remedy(err)
				for _, says := range []string{"laptop lost", "until 20", "ask root"} {
					if !strings.Contains(text, says) {
						t.Errorf("%s: got %q, want it to say %q", r.name, text, says)
					}
				}
			}
			_, err := authrpc.Call(t.Context(), other, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
			if hitsOther := lock.hits && name != "serial"; (err != nil) != hitsOther {
				t.Errorf("with another certificate of the user: got %v", err)
			}
			_, err = authrpc.Call(t.Context(), root, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
			if err != nil {
				t.Errorf("another user: got %v", err)
			}
			// A lock does not stand in the way of a new login here: the login decides.
			_, err = authrpc.Call(t.Context(), alice, authrpc.RedeemLogin, authrpc.RedeemLoginRequest{})
			if fault.CodeOf(err) == "access-locked" {
				t.Errorf("redeeming a login: got %v, want it judged by the login alone", err)
			}
		})
	}
}

// A role that a lock takes allows nothing, also where the lock names one certificate.
func TestALockTakesARole(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	root := s.user("root", "admin")
	alice := userIdentity(s.auth.Cluster(), "alice", "admin", "viewer")
	other := s.user("alice", alice.Roles...)
	s.join(identity.Node, "web", identity.Labels{"env": "prod"})
	cert := s.sign(userRequest(alice), newKey(t), s.now())
	stolen := s.client(cert)
	roles := authrpc.GetResourcesRequest{Kind: access.Roles}
	list := authrpc.ListNodesRequest{}
	serial := cert.Leaf.SerialNumber.Uint64()
	s.must(s.lock(root, fmt.Sprintf(`{"match":{"serial":"%d"},"without_role":"admin"}`, serial)))
	_, err := authrpc.Call(t.Context(), stolen, authrpc.GetResources, roles)
	if !fault.Is(err, fault.Denied) || !strings.Contains(fault.Message(err), "lock ") {
		t.Errorf("by the role that was taken: got %v, want denied by the lock", err)
	}
	if _, err := authrpc.Call(t.Context(), other, authrpc.GetResources, roles); err != nil {
		t.Errorf("with another certificate: got %v", err)
	}
	got, err := authrpc.Call(t.Context(), stolen, authrpc.ListNodes, list)
	if err != nil || len(got.Nodes) != 1 {
		t.Errorf("by the other role: got %d nodes and %v, want 1", len(got.Nodes), err)
	}
	s.must(s.lock(root, fmt.Sprintf(`{"match":{"serial":"%d"},"without_role":"viewer"}`, serial)))
	got, err = authrpc.Call(t.Context(), stolen, authrpc.ListNodes, list)
	if err != nil || len(got.Nodes) != 0 {
		t.Errorf("without any role: got %d nodes and %v, want none", len(got.Nodes), err)
	}
}

// A machine that is locked is refused on every route, also renewal, with the certificate that it has or an
// expired one. Another machine goes on.
func TestALockedMachineMayDoNothing(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	root := s.user("root", "admin")
	node, edge := s.join(identity.Node, "web", nil), s.join(identity.Proxy, "edge", nil, "edge.example.org")
	other := s.join(identity.Node, "db", nil)
	s.must(s.lock(root, `{"match":{"machine":"web"},"message":"stolen"}`))
	s.must(s.lock(root, `{"match":{"machine":"edge"},"message":"stolen"}`))
	wantRefused := func(r route, m *machine, client *authrpc.Client) {
		t.Helper()
		err := r.ask(t.Context(), client)
		if fault.CodeOf(err) != "machine-locked" || !strings.Contains(fault.Message(err), "stolen") {
			t.Errorf("%s by %s: got %v, want denied by the lock", r.name, m.req.Name, err)
		}
	}
	for _, r := range routes() {
		if r.acceptsKind(identity.Node) {
			wantRefused(r, node, node.Client)
			if err := r.ask(t.Context(), other.Client); fault.CodeOf(err) == "machine-locked" {
				t.Errorf("%s by another machine: got %v", r.name, err)
			}
		}
		if r.acceptsKind(identity.Proxy) {
			wantRefused(r, edge, edge.Client)
		}
	}
	// Nor is its join repeated.
	_, err := authrpc.Call(t.Context(), s.client(nil), authrpc.Join, node.req)
	if !fault.Is(err, fault.Denied) {
		t.Errorf("the same join again: got %v, want denied", err)
	}
	s.advance(25 * time.Hour)
	wantRefused(newRoute(authrpc.Renew), node, s.client(node.cert()))
	if _, err := authrpc.Call(t.Context(), s.client(other.cert()), authrpc.Renew,
		authrpc.RenewRequest{Time: s.now()}); err != nil {
		t.Errorf("renewal of another machine: got %v", err)
	}
}

// Whoever is connected by a locked proxy is refused, on connections from before the lock too, and told why.
// Whoever uses the proxy cannot lock it by mistake.
func TestNobodyIsConnectedByALockedProxy(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	root := s.user("root", "admin")
	edge := s.join(identity.Proxy, "edge", nil, "edge.example.org")
	by := forwardingDialer{edge.key, edge.res.Identity.ID}
	through := func(cert *tls.Certificate) *authrpc.Client {
		c := authrpc.NewClientWithDialer(by, s.addr, s.clientTLS(cert))
		t.Cleanup(c.Close)
		return c
	}
	rootCert := s.sign(userRequest(userIdentity(s.auth.Cluster(), "root", "admin")), newKey(t), s.now())
	user, anonymous := through(rootCert), through(nil)
	askUser := func() error {
		_, err := authrpc.Call(t.Context(), user, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
		return err
	}
	askAnonymous := func() error {
		req := authrpc.BeginHeadlessRequest{Challenge: strings.Repeat("a", 43)}
		res, err := authrpc.Call(t.Context(), anonymous, authrpc.BeginHeadless, req)
		if err == nil && res.From != netip.MustParseAddr(clientAddress).String() {
			t.Errorf("got the address %s, want the forwarded one", res.From)
		}
		return err
	}
	for name, ask := range map[string]func() error{"a user": askUser, "a stranger": askAnonymous} {
		if err := ask(); err != nil {
			t.Fatalf("%s before the lock: got %v", name, err)
		}
	}
	if err := s.lock(user, `{"match":{"machine":"edge"}}`); fault.CodeOf(err) != "lock-hits-own-proxy" {
		t.Errorf("a lock of one's own proxy: got %v, want it refused", err)
	}
	s.must(s.lock(root, `{"match":{"machine":"edge"},"message":"stolen"}`))
	for name, ask := range map[string]func() error{"a user": askUser, "a stranger": askAnonymous} {
		err := ask()
		if fault.CodeOf(err) != "connection-proxy-locked" || !strings.Contains(fault.Message(err), "stolen") {
			t.Errorf("%s: got %v, want denied by the lock", name, err)
		}
	}
	if _, err := authrpc.Call(t.Context(), root, authrpc.WhoAmI, authrpc.WhoAmIRequest{}); err != nil {
		t.Errorf("directly: got %v", err)
	}
}
