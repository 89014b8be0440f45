package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/catest"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// probe connects with the certificate, unless it is nil, and returns nil if the server of the protocol has
// answered.
func (s *testServer) probe(cert *tls.Certificate, alpn ...string) error {
	s.t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, NextProtos: alpn}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	conn, err := tls.Dial("tcp", s.addr, cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	s.must(conn.SetDeadline(time.Now().Add(patience)))
	// A client's handshake ends before the server's: only what the server sends next shows that it has
	// accepted the certificate. The API answers a request. Raft closes a connection with a message of an
	// unknown type.
	request, want := "GET / HTTP/1.1\r\nHost: auth\r\n\r\n", error(nil)
	if len(alpn) == 1 && alpn[0] == identity.ALPNRaft {
		request, want = "\xff", io.EOF
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	if _, err = conn.Read(make([]byte, 1)); errors.Is(err, want) {
		return nil
	}
	return err
}

// machineCert is a certificate that auth never issued, signed by its service authority, for a machine of the
// kind.
func (s *testServer) machineCert(kind identity.Kind) *tls.Certificate {
	s.t.Helper()
	const id = "00000000000000000000000000000001"
	who := identity.Identity{Kind: kind, Cluster: s.auth.Cluster(), Name: "x", ID: id}
	return s.sign(ca.Request{Profile: ca.Service, Identity: who}, newKey(s.t), s.now())
}

// A connection is accepted if it offers exactly one protocol of auth and its certificate is of a kind that
// the protocol is for.
func TestThePortChecksProtocolAndCertificateKind(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	user := s.sign(userRequest(userIdentity(s.auth.Cluster(), "alice")), newKey(t), s.now())
	const auth, raft = identity.ALPNAuth, identity.ALPNRaft
	for _, tt := range []struct {
		name     string
		cert     *tls.Certificate
		alpn     []string
		accepted bool
	}{
		{"an anonymous client at the API", nil, []string{auth}, true},
		{"a user at the API", user, []string{auth}, true},
		{"a node at the API", s.machineCert(identity.Node), []string{auth}, true},
		{"a replica at raft", s.machineCert(identity.Auth), []string{raft}, true},
		{"an anonymous client at raft", nil, []string{raft}, false},
		{"a user at raft", user, []string{raft}, false},
		{"a node at raft", s.machineCert(identity.Node), []string{raft}, false},
		{"a proxy at raft", s.machineCert(identity.Proxy), []string{raft}, false},
		{"several protocols", s.machineCert(identity.Auth), []string{auth, raft}, false},
		{"no protocol", nil, nil, false},
		{"another protocol", nil, []string{"h2"}, false},
	} {
		if err := s.probe(tt.cert, tt.alpn...); (err == nil) != tt.accepted {
			t.Errorf("%s: got %v, want accepted %v", tt.name, err, tt.accepted)
		}
	}
	if c := s.auth.Counts(); c.Refused == 0 || c.Accepted <= c.Refused {
		t.Errorf("got counts %+v, want refused connections and others", c)
	}
}

// A certificate of a cluster with the same name but other keys is refused by a TLS alert, which authrpc's
// client turns into a fault with a remedy.
func TestAForeignCertificateIsRefusedWithAnAlert(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	keys := keyringtest.New(t, "example.com", time.Now()) // the same name, other keys
	other, err := ca.New(ca.Config{Cluster: "example.com", Keys: keys})
	s.must(err)
	key := newKey(t)
	r := userRequest(userIdentity("example.com", "mallory", "admin"))
	r.X509Key = key.Public()
	out := catest.Issue(t, other, r)
	cert := &tls.Certificate{Certificate: [][]byte{out.X509.Raw}, PrivateKey: key}
	var alert *net.OpError
	if err := s.probe(cert, identity.ALPNAuth); !errors.As(err, &alert) || alert.Op != "remote error" {
		t.Errorf("got %v, want a TLS alert", err)
	}
	_, err = authrpc.Call(t.Context(), s.client(cert), authrpc.WhoAmI, authrpc.WhoAmIRequest{})
	if !fault.Is(err, fault.Unauthenticated) || fault.Remedy(err) != "run: tsh login" {
		t.Errorf("got %v with remedy %q, want unauthenticated and: run: tsh login", err, fault.Remedy(err))
	}
}

func TestTheUserAuthorityCannotSignMachines(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	// A machine's identity under the user authority: a thief of that key alone could sign it.
	parent, signer := s.auth.services.keys.UserX509()
	template := s.machineCert(identity.Auth).Leaf
	key := newKey(t)
	der, err := x509.CreateCertificate(nil, template, parent, key.Public(), signer)
	s.must(err)
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if err := s.probe(cert, identity.ALPNAuth); err == nil {
		t.Error("got accepted, want refused")
	}
}

func TestTLSBelow13IsRefused(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{
		InsecureSkipVerify: true,
		MaxVersion:         tls.VersionTLS12,
		NextProtos:         []string{identity.ALPNAuth},
	})
	if err == nil {
		conn.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

// A client that knows only the pin accepts the server; with another pin it refuses it.
func TestThePinAloneVerifiesTheServer(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	right, wrong := s.auth.Pin(), s.auth.Pin()
	wrong[0] ^= 1
	for pin, want := range map[identity.Pin]fault.Kind{
		right: fault.Expired, // the API's own answer: the login is not known
		wrong: fault.Denied,
	} {
		const cluster = identity.AnyCluster
		cfg := identity.PinnedTLS(pin, cluster, identity.ALPNAuth, nil, s.now, identity.Auth)
		c := authrpc.NewClient(s.addr, cfg)
		defer c.Close()
		r, _ := s.request("t", identity.Node, "n")
		keys := authrpc.Keys{Verifier: "y", SSHKey: r.SSHKey, X509Key: r.X509Key}
		redeem := authrpc.RedeemLoginRequest{Code: "x", Keys: keys}
		if _, err := authrpc.Call(t.Context(), c, authrpc.RedeemLogin, redeem); !fault.Is(err, want) {
			t.Errorf("got %v, want kind %s", err, want)
		}
	}
}
