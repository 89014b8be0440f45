package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// probe does a TLS handshake and one read, and tells how the server takes it: nil when it waits for a
// request.
func (w *testServer) probe(cert *tls.Certificate, alpn ...string) error {
	w.t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, NextProtos: alpn}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	conn, err := tls.Dial("tcp", w.addr, cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	w.must(conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)))
	_, err = conn.Read(make([]byte, 1))
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return nil
	}
	return err
}

// machineCert is one that auth never issued, for a machine of the kind.
func (w *testServer) machineCert(kind identity.Kind) *tls.Certificate {
	id := identity.Identity{
		Kind:    kind,
		Cluster: w.auth.Cluster(),
		Name:    "x",
		ID:      "00000000000000000000000000000001",
	}
	return w.sign(ca.Request{Profile: ca.Service, Identity: id}, newKey(w.t), w.now())
}

func TestThePortChecksProtocolAndCertificateKind(t *testing.T) {
	w := newTestServer(t)
	user := w.sign(
		ca.Request{Profile: ca.User, Identity: userIdentity(w.auth.Cluster(), "alice")},
		newKey(t),
		w.now(),
	)
	const auth, raft = identity.ALPNAuth, identity.ALPNRaft
	for _, tt := range []struct {
		name string
		cert *tls.Certificate
		alpn []string
		in   bool
	}{
		{"anyone at the API", nil, []string{auth}, true},
		{"a user at the API", user, []string{auth}, true},
		{"a node at the API", w.machineCert(identity.Node), []string{auth}, true},
		{"a replica at raft", w.machineCert(identity.Auth), []string{raft}, true},
		{"nobody at raft", nil, []string{raft}, false},
		{"a user at raft", user, []string{raft}, false},
		{"a node at raft", w.machineCert(identity.Node), []string{raft}, false},
		{"a proxy at raft", w.machineCert(identity.Proxy), []string{raft}, false},
		{"several protocols", w.machineCert(identity.Auth), []string{auth, raft}, false},
		{"no protocol", nil, nil, false},
		{"another protocol", nil, []string{"h2"}, false},
	} {
		if err := w.probe(tt.cert, tt.alpn...); (err == nil) != tt.in {
			t.Errorf("%s: got %v, want let in %v", tt.name, err, tt.in)
		}
	}
	if c := w.auth.Counts(); c.Refused == 0 || c.Accepted <= c.Refused {
		t.Errorf("got counts %+v, want both kinds counted", c)
	}
}

func TestAForeignCertificateIsRefusedWithAnAlert(t *testing.T) {
	w := newTestServer(t)
	keys := keyringtest.New(t, "example.com", time.Now()) // the same name, other keys
	other, err := ca.New(ca.Config{Cluster: "example.com", Keys: keys, Recorder: unrecorded{}})
	w.must(err)
	key := newKey(t)
	out, err := other.Issue(
		t.Context(),
		ca.Request{
			Profile:  ca.User,
			Identity: userIdentity("example.com", "mallory", "admin"),
			X509Key:  key.Public(),
		},
	)
	w.must(err)
	cert := &tls.Certificate{Certificate: [][]byte{out.X509.Raw}, PrivateKey: key}
	var alert *net.OpError
	if err := w.probe(cert, identity.ALPNAuth); !errors.As(err, &alert) || alert.Op != "remote error" {
		t.Errorf("got %v, want a TLS alert", err)
	}
	if _, err = authrpc.Call(t.Context(), w.client(cert), authrpc.WhoAmI, authrpc.WhoAmIRequest{}); !fault.Is(
		err,
		fault.Unauthenticated,
	) ||
		fault.Remedy(err) != "run: tsh login" {
		t.Errorf("got %v with remedy %q, want unauthenticated and: run: tsh login", err, fault.Remedy(err))
	}
}

func TestTheUserAuthorityCannotSignMachines(t *testing.T) {
	w := newTestServer(t)
	// A machine's identity under the user authority, as a thief of only that key could sign it.
	parent, signer := w.auth.services.keys.UserX509()
	template := w.machineCert(identity.Auth).Leaf
	key := newKey(t)
	der, err := x509.CreateCertificate(nil, template, parent, key.Public(), signer)
	w.must(err)
	if err := w.probe(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, identity.ALPNAuth); err == nil {
		t.Error("got let in, want refused")
	}
}

func TestTLSBelow13IsRefused(t *testing.T) {
	w := newTestServer(t)
	conn, err := tls.Dial(
		"tcp",
		w.addr,
		&tls.Config{
			InsecureSkipVerify: true,
			MaxVersion:         tls.VersionTLS12,
			NextProtos:         []string{identity.ALPNAuth},
		},
	)
	if err == nil {
		conn.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

func TestThePinAloneVerifiesTheServer(t *testing.T) {
	w := newTestServer(t)
	right, wrong := w.auth.Pin(), w.auth.Pin()
	wrong[0] ^= 1
	for pin, want := range map[identity.Pin]fault.Kind{right: fault.Expired, wrong: fault.Denied} { // redeem of nothing is refused in the room
		c := authrpc.NewClient(
			w.addr,
			identity.PinnedTLS(pin, identity.AnyCluster, identity.ALPNAuth, nil, w.now, identity.Auth),
		)
		defer c.Close()
		r, _ := w.request("t", identity.Node, "n")
		_, err := authrpc.Call(
			t.Context(),
			c,
			authrpc.RedeemLogin,
			authrpc.RedeemLoginRequest{
				Code: "x",
				Keys: authrpc.Keys{Verifier: "y", SSHKey: r.SSHKey, X509Key: r.X509Key},
			},
		)
		if !fault.Is(err, want) {
			t.Errorf("got %v, want kind %s", err, want)
		}
	}
}
