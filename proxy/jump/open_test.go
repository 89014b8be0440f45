package jump_test

import (
	"crypto/x509"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/open"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/proxy/jump"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

// changingRules are rules that a test changes.
type changingRules struct {
	mu      sync.Mutex
	trust   *rules.Trust
	changed chan struct{}
}

func (r *changingRules) Current() *rules.Trust    { r.mu.Lock(); defer r.mu.Unlock(); return r.trust }
func (r *changingRules) Changed() <-chan struct{} { r.mu.Lock(); defer r.mu.Unlock(); return r.changed }

// change puts a copy of the rules in force that fn has changed, under the next head.
func (r *changingRules) change(fn func(*rules.Trust)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := *r.trust
	next.Head.Docs = maps.Clone(next.Head.Docs)
	next.Head.Sequence.Counter++
	fn(&next)
	r.trust = &next
	close(r.changed)
	r.changed = make(chan struct{})
}

// openServer is a testServer whose rules and clock change, and whose denials come on a channel.
type openServer struct {
	*testServer
	rules  *changingRules
	ahead  atomic.Int64 // how far the clock is ahead
	denied chan []open.Denial
}

func newOpenServer(t *testing.T) *openServer {
	t.Helper()
	base := newTestServer(t)
	trust, err := rules.Open(base.Pin(), base.SignRules())
	if err != nil {
		t.Fatal(err)
	}
	s := &openServer{testServer: base, denied: make(chan []open.Denial, 10)}
	s.rules = &changingRules{trust: trust, changed: make(chan struct{})}
	client := base.Client()
	s.Server = jump.New(jump.Config{
		Cluster:    clustertest.Name,
		ProxyID:    base.ProxyID(),
		Rules:      s.rules,
		Nodes:      base.nodes,
		Auth:       client,
		HostSigner: base.HostKey,
		Denied:     func(d []open.Denial) { s.denied <- d },
		Now:        func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) },
		Log:        proxytest.Log(),
	})
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
		client.Close()
	})
	return s
}

// certified is a user with a true certificate, valid for an hour.
func (s *openServer) certified(name string, roles ...string) identity.Peer {
	s.t.Helper()
	cert, err := x509.ParseCertificate(s.UserCertificate(s.User(name, roles...), nil).Certificate[0])
	if err != nil {
		s.t.Fatal(err)
	}
	peer, err := s.VerifyPeer([]*x509.Certificate{cert}, identity.User)
	if err != nil {
		s.t.Fatal(err)
	}
	return peer
}

// relay opens a relay to web-1 over threshold-dial. end closes it, and returns when it has ended.
func (s *openServer) relay(user identity.Peer) (end func()) {
	s.t.Helper()
	raw, wait := s.dialAs(user)
	conn := dial.Client(raw, dial.Request{Node: "web-1"})
	if _, err := conn.Write([]byte("x")); err != nil {
		s.t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		s.t.Fatal(err)
	}
	return func() { raw.Close(); wait() }
}

// wantRefused dials web-1 as somebody who gets a fault of the kind.
func (s *openServer) wantRefused(user identity.Peer, kind fault.Kind) {
	s.t.Helper()
	raw, wait := s.dialAs(user)
	conn := dial.Client(raw, dial.Request{Node: "web-1"})
	if _, err := conn.Write([]byte("x")); err != nil {
		s.t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !fault.Is(err, kind) {
		s.t.Errorf("got %v, want %s refused as %s", err, user, kind)
	}
	raw.Close()
	wait()
}

// deniedUsers returns of how many relays of each user a denial is.
func (s *openServer) deniedUsers() map[string]int {
	s.t.Helper()
	select {
	case denials := <-s.denied:
		out := map[string]int{}
		for _, d := range denials {
			if d.User.Serial == 0 || d.Use.Node != s.nodes.nodes["web-1"].ID || fault.Remedy(d.Reason) == "" {
				s.t.Errorf("got %+v, want the serial, the node and a remedy", d)
			}
			out[d.User.Name] += len(d.Holders)
		}
		return out
	case <-time.After(10 * time.Second):
		s.t.Fatal("nothing was denied for 10 s")
		return nil
	}
}

// Relays of both protocols are decided again at each change. Those of others go on, and what has ended, or
// was refused, is forgotten.
func TestOpenRelaysAreDecidedAgain(t *testing.T) {
	t.Parallel()
	s := newOpenServer(t)
	alice, bob := s.certified("alice@example.com", "ops"), s.certified("bob@example.com", "ops", "viewers")
	endAlice, endBob := s.relay(alice), s.relay(bob)
	endOther := s.relay(bob)
	jumped := s.mustJump("ops") // alice, with a certificate for SSH
	channel, err := jumped.Dial("tcp", "web-1:22")
	if err != nil {
		t.Fatal(err)
	}
	s.wantRefused(s.certified("eve@example.com"), fault.NotFound)
	if n := s.OpenEntries(); n != 4 {
		t.Errorf("got %d entries, want those of the four relays", n)
	}
	s.rules.change(func(*rules.Trust) {})
	lock := access.Lock{ID: "k3", Match: access.Facts{User: access.UserFact(bob.UserKey())}}
	s.rules.change(func(next *rules.Trust) { next.Policy.Locks = access.NewLocks([]access.Lock{lock}) })
	if got, want := s.deniedUsers(), map[string]int{bob.Name: 2}; !maps.Equal(got, want) {
		t.Errorf("got %v denied, want %v", got, want)
	}
	endOther()
	s.rules.change(func(next *rules.Trust) { next.Policy.Roles = nil })
	if got, want := s.deniedUsers(), map[string]int{alice.Name: 2}; !maps.Equal(got, want) {
		t.Errorf("got %v denied, want %v: the other was denied before", got, want)
	}
	channel.Close()
	jumped.Close()
	jumped.wait()
	endAlice()
	endBob()
	if n := s.OpenEntries(); n != 0 {
		t.Errorf("got %d entries, want none", n)
	}
}

// A lock of one certificate denies the relays of that certificate alone.
func TestALockOfASerialDeniesOneCertificate(t *testing.T) {
	t.Parallel()
	s := newOpenServer(t)
	first, second := s.certified("alice@example.com", "ops"), s.certified("alice@example.com", "ops")
	defer s.relay(first)()
	defer s.relay(second)()
	serial := identity.Serial(first.Cert.SerialNumber.Uint64())
	lock := access.Lock{ID: "k3", Match: access.Facts{Serial: serial}}
	s.rules.change(func(next *rules.Trust) { next.Policy.Locks = access.NewLocks([]access.Lock{lock}) })
	denials := <-s.denied
	if len(denials) != 1 || denials[0].User.Serial != serial {
		t.Errorf("got %+v, want one certificate denied", denials)
	}
	// The second login of the same user is not refused either, and the first one is.
	s.relay(second)()
	s.wantRefused(first, fault.Denied)
}

// A lock of this proxy denies every relay, and one of another proxy none.
func TestALockOfTheProxyDeniesWhatPassesIt(t *testing.T) {
	t.Parallel()
	s := newOpenServer(t)
	defer s.relay(s.certified("alice@example.com", "ops"))()
	lock := func(proxy identity.MachineID) {
		l := access.Lock{ID: "k3", Match: access.Facts{ViaProxy: proxy}}
		s.rules.change(func(next *rules.Trust) { next.Policy.Locks = access.NewLocks([]access.Lock{l}) })
	}
	lock("ffffffffffffffffffffffffffffffff")
	s.relay(s.certified("bob@example.com", "ops"))()
	lock(s.ProxyID())
	if got, want := s.deniedUsers(), map[string]int{"alice@example.com": 1}; !maps.Equal(got, want) {
		t.Errorf("got %v denied, want %v", got, want)
	}
}

// A relay may outlive its certificate, because the node may know a newer one. It never outlives the authority
// that signed the certificate, nor the rules.
func TestWhatEndsARelay(t *testing.T) {
	t.Parallel()
	nothing := func(*rules.Trust) {}
	for _, tt := range []struct {
		name   string
		later  time.Duration
		change func(*rules.Trust)
		kind   fault.Kind // of the denial; empty: none
		says   string
	}{
		{"nothing", 0, nothing, "", ""},
		{"the end of the certificate", 10 * time.Hour, nothing, "", ""},
		{"rules that are too old", 25 * time.Hour, nothing, fault.Unavailable, "old"},
		{"the authority is withdrawn", 0, func(next *rules.Trust) {
			ref := next.Head.Docs[rules.AuthoritiesKind]
			ref.Revision.Index++
			next.Head.Docs[rules.AuthoritiesKind] = ref
			next.Authorities.UserRoots = x509.NewCertPool()
		}, fault.Denied, "authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newOpenServer(t)
			defer s.relay(s.certified("alice@example.com", "ops"))()
			s.rules.change(nothing) // verifies the certificate for the first time
			s.ahead.Store(int64(tt.later))
			s.rules.change(tt.change)
			if tt.kind == "" {
				s.rules.change(func(next *rules.Trust) {
					grantless := next.Policy.Roles[ops.Name]
					grantless.Allow = nil
					next.Policy.Roles = map[string]access.Role{ops.Name: grantless}
				})
				tt.kind, tt.says = fault.Denied, "no role"
			}
			got := <-s.denied
			if len(got) != 1 || !fault.Is(got[0].Reason, tt.kind) ||
				!strings.Contains(fault.Message(got[0].Reason), tt.says) {
				t.Errorf("got %+v, want it denied by %s, with %q", got, tt.kind, tt.says)
			}
		})
	}
}

// echo sends a byte through a relay, and returns the error of reading it back.
func echo(conn net.Conn) error {
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

// The proxy cuts a relay that the node leaves open although the rules deny it. It does not cut one that was
// denied for a moment, nor that of another user.
func TestADeniedRelayIsCut(t *testing.T) {
	t.Parallel()
	s := newOpenServer(t)
	var conns []net.Conn
	var locks []access.Lock
	for _, name := range []string{"forgiven@example.com", "locked@example.com", "other@example.com"} {
		user := s.certified(name, "ops")
		raw, wait := s.dialAs(user)
		conn := dial.Client(raw, dial.Request{Node: "web-1"})
		defer wait()
		defer conn.Close()
		if err := echo(conn); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		match := access.Facts{User: access.UserFact(user.UserKey())}
		locks = append(locks, access.Lock{ID: "k3", Match: match})
	}
	for i, name := range []string{"forgiven@example.com", "locked@example.com"} {
		s.rules.change(func(next *rules.Trust) { next.Policy.Locks = access.NewLocks(locks[i : i+1]) })
		if got, want := s.deniedUsers(), map[string]int{name: 1}; !maps.Equal(got, want) {
			t.Errorf("got %v denied, want %v", got, want)
		}
	}
	// When the second is cut, the first one's time is over too.
	if n, err := conns[1].Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("got %d bytes, %v, want the relay cut", n, err)
	}
	for _, conn := range []net.Conn{conns[0], conns[2]} {
		if err := echo(conn); err != nil {
			t.Errorf("a relay that is allowed: %v", err)
		}
	}
}

// A role with rules_age allows no relay once this proxy has heard nothing for longer.
func TestRulesAgeCountsAtTheProxy(t *testing.T) {
	t.Parallel()
	s := newOpenServer(t)
	strict := ops
	strict.Options.RulesAge = access.Set(access.Duration(5 * time.Minute))
	s.rules.change(func(next *rules.Trust) { next.Policy.Roles = map[string]access.Role{ops.Name: strict} })
	alice := s.certified("alice@example.com", "ops")
	defer s.relay(alice)()
	s.ahead.Store(int64(6 * time.Minute))
	s.rules.change(func(*rules.Trust) {})
	if got, want := s.deniedUsers(), map[string]int{alice.Name: 1}; !maps.Equal(got, want) {
		t.Errorf("got %v denied, want %v", got, want)
	}
	s.wantRefused(alice, fault.NotFound)
}
