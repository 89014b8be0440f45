package tunnel_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/internal/tunnel/mux"
	"github.com/threshold-access/threshold/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	nodeID  = identity.MachineID("00112233445566778899aabbccddeeff")
	otherID = identity.MachineID("ffeeddccbbaa99887766554433221100")
)

// machine is a node with a service key.
type machine struct {
	key  *ecdsa.PrivateKey
	peer identity.Peer
}

func newMachine(t testing.TB, id identity.MachineID) machine {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	who := identity.Identity{V: 1, Kind: identity.Node, Cluster: "demo.test", Name: "web-1", ID: id}
	return machine{
		key:  key,
		peer: identity.Peer{Identity: who, Cert: &x509.Certificate{PublicKey: key.Public()}},
	}
}

// says is what the machine says of itself when it calls itself id.
func (m machine) says(id identity.MachineID, now func() time.Time) tunnel.Node {
	return tunnel.Node{
		ID:       id,
		Key:      m.key,
		Version:  "v1.2.3",
		Instance: "0123456789abcdef0123456789abcdef",
		Features: wire.Features{"early-requests", "of-a-later-release"},
		Services: []tunnel.Service{tunnel.SSH},
		Now:      now,
	}
}

// proxyAt is a proxy with a clock.
func proxyAt(now func() time.Time) tunnel.Proxy {
	return tunnel.Proxy{ID: otherID, Name: "proxy-1", Features: wire.Features{"of-the-proxy"}, Now: now}
}

// newTunnel makes a tunnel over an in-memory connection. Both ends are closed at the end of the test.
func newTunnel(t testing.TB, at func() time.Time) (*tunnel.Attached, *tunnel.Uplink) {
	t.Helper()
	node := newMachine(t, nodeID)
	attached, uplink, err, err2 := greet(t, node, node.peer, nodeID, at, at)
	if err != nil || err2 != nil {
		t.Fatalf("greet: %v, %v", err, err2)
	}
	t.Cleanup(func() { uplink.Close(); attached.Close() })
	return attached, uplink
}

// greet runs both sides of a greeting in memory. The node signs with the key of m and calls itself id; claims
// is the certificate that the proxy has verified. It returns both ends and the error of each side.
func greet(
	t testing.TB,
	node machine,
	claims identity.Peer,
	id identity.MachineID,
	proxyNow, nodeNow func() time.Time,
) (*tunnel.Attached, *tunnel.Uplink, error, error) {
	t.Helper()
	near, far := net.Pipe()
	type result struct {
		u   *tunnel.Uplink
		err error
	}
	done := make(chan result, 1)
	go func() {
		uplink, err := tunnel.Connect(context.Background(), far, node.says(id, nodeNow))
		done <- result{uplink, err}
	}()
	attached, err := tunnel.Accept(t.Context(), near, claims, proxyAt(proxyNow))
	r := <-done
	return attached, r.u, err, r.err
}

func TestGreetingIdentifiesBothSides(t *testing.T) {
	node := newMachine(t, nodeID)
	attached, uplink, err, err2 := greet(t, node, node.peer, nodeID, time.Now, time.Now)
	if err != nil || err2 != nil {
		t.Fatalf("greet: %v, %v", err, err2)
	}
	defer attached.Close()
	defer uplink.Close()
	if uplink.Proxy() != "proxy-1" || uplink.ProxyID() != otherID {
		t.Errorf("got proxy %q (%s), want proxy-1 (%s)", uplink.Proxy(), uplink.ProxyID(), otherID)
	}
	said := node.says(nodeID, time.Now)
	if attached.Version() != said.Version || attached.Instance() != said.Instance ||
		!slices.Equal(attached.Features(), said.Features) {
		t.Errorf("got version %q, instance %q and features %v, want those of %+v",
			attached.Version(), attached.Instance(), attached.Features(), said)
	}
	at, err := attached.Attachment().Verify(node.key.Public())
	if err != nil || at.Node != nodeID || at.Proxy != "proxy-1" {
		t.Errorf("got evidence %+v, %v, want one of %s at proxy-1", at, err, nodeID)
	}
}

// A proxy refuses a node whose attachment is signed by another key, names another node, or has another time.
// Both sides get the same fault.
func TestGreetingRefuses(t *testing.T) {
	node, other := newMachine(t, nodeID), newMachine(t, nodeID)
	late := func() time.Time { return time.Now().Add(10 * time.Minute) }
	for _, tt := range []struct {
		name   string
		signer machine
		id     identity.MachineID
		node   func() time.Time
		kind   fault.Kind
		says   string
	}{
		{"an attachment of another key", other, nodeID, time.Now, fault.Denied, "not signed by this node"},
		{"an attachment of another node", node, otherID, time.Now, fault.Denied, "not signed by this node"},
		{"a clock ten minutes ahead", node, nodeID, late, fault.Invalid, "clock is off by 10m"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err, err2 := greet(t, tt.signer, node.peer, tt.id, time.Now, tt.node)
			for _, err := range []error{err, err2} {
				if !fault.Is(err, tt.kind) || !strings.Contains(fault.Message(err), tt.says) ||
					fault.Remedy(err) == "" {
					t.Errorf("got %v, want a %s that says %q and has a remedy", err, tt.kind, tt.says)
				}
			}
		})
	}
}

// A greeting with a peer that says nothing ends after greetTimeout, on either side.
func TestSilentPeerEndsTheGreeting(t *testing.T) {
	node := newMachine(t, nodeID)
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go io.Copy(io.Discard, far)
		start := time.Now()
		_, err := tunnel.Accept(t.Context(), near, node.peer, proxyAt(time.Now))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a deadline", err)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("got refused after %s, want 10s", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go io.Copy(io.Discard, far)
		if _, err := tunnel.Connect(t.Context(), near, node.says(nodeID, time.Now)); err == nil {
			t.Error("got a tunnel to a silent proxy, want an error")
		}
	})
}

var header = tunnel.Header{
	Service:    tunnel.SSH,
	From:       netip.MustParseAddrPort("192.0.2.7:50123"),
	Protocol:   "dial",
	ProxyID:    otherID,
	Proxy:      "proxy-1",
	Connection: identity.NewConnectionID(),
}

func open(t testing.TB, attached *tunnel.Attached, uplink *tunnel.Uplink) (near, far net.Conn) {
	t.Helper()
	near, err := attached.Open(t.Context(), header)
	if err != nil {
		t.Fatal(err)
	}
	far, h, err := uplink.Accept()
	if err != nil {
		t.Fatal(err)
	}
	want := header
	want.V = 1
	if !reflect.DeepEqual(h, want) || far.RemoteAddr().String() != header.From.String() {
		t.Errorf("got header %+v and address %s, want %+v", h, far.RemoteAddr(), header)
	}
	return near, far
}

// A stream carries more than its window, and goes on in the other direction after a half-close.
func TestStreamCarriesBytesBothWays(t *testing.T) {
	attached, uplink := newTunnel(t, time.Now)
	near, far := open(t, attached, uplink)
	sent := make([]byte, 3*mux.MaxWindow)
	_, _ = rand.Read(sent)
	go func() {
		near.Write(sent)
		near.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got %d bytes, %v, want the %d sent", len(got), err, len(sent))
	}
	go func() {
		far.Write(sent) // the other direction is still open
		far.Close()
	}()
	if got, err = io.ReadAll(near); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes back, %v, want %d", len(got), err, len(sent))
	}
	near.Close()
}

// A stream has the errors of a net.Conn: for a deadline, for a read that Close interrupts, and for the end at
// the other side.
func TestCloseWakesReaderAndDeadlinesWork(t *testing.T) {
	attached, uplink := newTunnel(t, time.Now)
	near, far := open(t, attached, uplink)
	defer near.Close()
	far.SetReadDeadline(time.Now())
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want a deadline", err)
	}
	far.SetReadDeadline(time.Time{})
	done := make(chan error)
	go func() {
		_, err := far.Read(make([]byte, 1))
		done <- err
	}()
	far.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
	if _, err := near.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v at the proxy, want EOF", err)
	}
}

func TestOpenRefusesInvalidHeaders(t *testing.T) {
	attached, _ := newTunnel(t, time.Now)
	for _, change := range []func(*tunnel.Header){
		func(h *tunnel.Header) { h.From = netip.AddrPort{} },
		func(h *tunnel.Header) { h.Protocol = "a way" },
		func(h *tunnel.Header) { h.Service = "127.0.0.1:22" },
		func(h *tunnel.Header) { h.Connection = "" },
	} {
		h := header
		change(&h)
		if _, err := attached.Open(t.Context(), h); err == nil {
			t.Errorf("got %+v opened, want refused", h)
		}
	}
}

func TestEndOfOneSideEndsTheOther(t *testing.T) {
	attached, uplink := newTunnel(t, time.Now)
	near, _ := open(t, attached, uplink)
	uplink.Close()
	<-attached.Done()
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("got bytes from a tunnel that ended")
	}
	if _, err := attached.Open(t.Context(), header); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	if _, _, err := uplink.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}

// cuttableConn is a connection whose network can fail without either end noticing: writes vanish once cut is
// closed.
type cuttableConn struct {
	net.Conn
	cut chan struct{}
}

func (f cuttableConn) Write(b []byte) (int, error) {
	select {
	case <-f.cut:
		return len(b), nil
	default:
		return f.Conn.Write(b)
	}
}

// When the network vanishes without a word, the tunnel ends within a minute.
func TestHalfOpenTunnelIsNoticedWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newMachine(t, nodeID)
		near, far := net.Pipe()
		cut := make(chan struct{})
		up := make(chan *tunnel.Uplink, 1)
		go func() {
			uplink, _ := tunnel.Connect(t.Context(), cuttableConn{far, cut}, node.says(nodeID, time.Now))
			up <- uplink
		}()
		attached, err := tunnel.Accept(t.Context(), cuttableConn{near, cut}, node.peer, proxyAt(time.Now))
		if err != nil {
			t.Fatal(err)
		}
		uplink := <-up
		close(cut)
		start := time.Now()
		<-attached.Done()
		if took := time.Since(start); took > time.Minute {
			t.Errorf("got it noticed after %s, want at most 1m", took)
		}
		attached.Close()
		uplink.Close()
	})
}

// rawNode is a node that does not keep to the protocol: a bare multiplexer.
func rawNode(t *testing.T) (*tunnel.Attached, *mux.Session) {
	t.Helper()
	node := newMachine(t, nodeID)
	near, far := net.Pipe()
	session := mux.New(far, mux.Config{Dialer: true, MaxStreams: 100, Timeout: time.Second})
	t.Cleanup(func() { session.Close() })
	go func() {
		c, err := session.Open()
		if err == nil {
			err = tunnel.AnswerForTest(c, node.key, nodeID)
		}
		if err != nil {
			t.Errorf("raw greeting: %v", err)
		}
	}()
	attached, err := tunnel.Accept(t.Context(), near, node.peer, proxyAt(time.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { attached.Close() })
	return attached, session
}

func TestNodeOpensNoStreams(t *testing.T) {
	_, session := rawNode(t)
	c, err := session.Open()
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, mux.ResetError{Code: mux.Refused}) {
		t.Errorf("got %v, want a refusal", err)
	}
}

// A stream for a service that the node does not have is reset, and another one goes on.
func TestAStreamForAnUnknownServiceIsReset(t *testing.T) {
	attached, uplink := newTunnel(t, time.Now)
	later := header
	later.Service = "database"
	c, err := attached.Open(t.Context(), later)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Read(make([]byte, 1))
	if fault.CodeOf(err) != "stream-unsupported" || fault.Remedy(err) == "" {
		t.Errorf("got %v, want it unsupported, with a remedy", err)
	}
	near, _ := open(t, attached, uplink)
	near.Close()
}
