package identity_test

import (
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// serverOf is a TLS server's certificate for id, with the root at the end of the chain, as servers send it.
func serverOf(
	t *testing.T,
	trusted testAuthorities,
	by *issuer,
	id identity.Identity,
	change func(c *x509.Certificate),
) tls.Certificate {
	t.Helper()
	tmpl := leafOf(t, id)
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	change(tmpl)
	key := newKey(t, elliptic.P256())
	leaf := create(t, tmpl, by, key)
	return tls.Certificate{
		Certificate: [][]byte{leaf.Raw, trusted.services.cert.Raw, trusted.root.cert.Raw},
		PrivateKey:  key,
	}
}

// handshake runs a TLS handshake in memory and returns the client's error.
func handshake(t *testing.T, client *tls.Config, server tls.Certificate, protos ...string) error {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		s := tls.Server(
			b,
			&tls.Config{
				Certificates:           []tls.Certificate{server},
				NextProtos:             protos,
				Time:                   func() time.Time { return noon },
				SessionTicketsDisabled: true,
			},
		)
		_ = s.Handshake() // the client's answer is what is tested
	}()
	err := tls.Client(a, client).HandshakeContext(t.Context())
	a.Close()
	<-done
	return err
}

// The client connects to the server with the right pin, cluster, kind and protocol, and to none where one of
// them differs.
func TestPinnedTLS(t *testing.T) {
	t.Parallel()
	trusted := newTestAuthorities(t)
	auth := node()
	auth.Kind, auth.Labels = identity.Auth, nil
	same := func(*x509.Certificate) {}
	good := serverOf(t, trusted, trusted.services, auth, same)
	pin := identity.PinOf(trusted.root.cert)
	now := func() time.Time { return noon }
	client := func(pin identity.Pin, cluster string, kinds ...identity.Kind) *tls.Config {
		return identity.PinnedTLS(pin, cluster, identity.ALPNAuth, nil, now, kinds...)
	}
	if err := handshake(t, client(pin, cluster, identity.Auth), good, "h2", identity.ALPNAuth); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		client *tls.Config
		server tls.Certificate
		protos []string
	}{
		{"another pin", client(identity.PinOf(trusted.foreign.cert), cluster, identity.Auth), good,
			[]string{identity.ALPNAuth}},
		{"no pin", client(identity.Pin{}, cluster, identity.Auth), good, []string{identity.ALPNAuth}},
		{"another cluster", client(pin, "other.example.com", identity.Auth), good,
			[]string{identity.ALPNAuth}},
		{"no kinds", client(pin, cluster), good, []string{identity.ALPNAuth}},
		{"a node in auth's place", client(pin, cluster, identity.Auth),
			serverOf(t, trusted, trusted.services, node(), same), []string{identity.ALPNAuth}},
		{"a user in auth's place", client(pin, cluster, identity.Auth, identity.User),
			serverOf(t, trusted, trusted.users, alice(), same), []string{identity.ALPNAuth}},
		{"a leaf of a foreign root", client(pin, cluster, identity.Auth),
			serverOf(t, trusted, trusted.foreign, auth, same), []string{identity.ALPNAuth}},
		{"a client's certificate", client(pin, cluster, identity.Auth),
			serverOf(t, trusted, trusted.services, auth,
				func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }),
			[]string{identity.ALPNAuth}},
		{"an expired one", client(pin, cluster, identity.Auth),
			serverOf(t, trusted, trusted.services, auth,
				func(c *x509.Certificate) {
					c.NotBefore, c.NotAfter = noon.Add(-time.Hour),
						noon
				}), []string{identity.ALPNAuth}},
		{"another protocol", client(pin, cluster, identity.Auth), good, []string{"h2"}},
		{"no protocol", client(pin, cluster, identity.Auth), good, nil},
	} {
		if err := handshake(t, tc.client, tc.server, tc.protos...); err == nil {
			t.Errorf("%s: got a connection, want a refusal", tc.name)
		}
	}
}

// The error of a handshake says which pin was wanted, so that a client can explain it.
func TestPinnedTLSReportsTheMissingPin(t *testing.T) {
	t.Parallel()
	trusted := newTestAuthorities(t)
	auth := node()
	auth.Kind, auth.Labels = identity.Auth, nil
	foreign := identity.PinOf(trusted.foreign.cert)
	err := handshake(
		t,
		identity.PinnedTLS(
			foreign,
			cluster,
			identity.ALPNAuth,
			nil,
			func() time.Time { return noon },
			identity.Auth,
		),
		serverOf(t, trusted, trusted.services, auth, func(*x509.Certificate) {}),
		identity.ALPNAuth,
	)
	var wrong *identity.PinError
	if !errors.As(err, &wrong) || wrong.Want != foreign {
		t.Errorf("got %v, want a PinError for %s", err, foreign)
	}
}

func TestPinnedTLSShowsTheClientsCertificate(t *testing.T) {
	t.Parallel()
	mine := errors.New("no certificate yet")
	cfg := identity.PinnedTLS(
		identity.Pin{},
		cluster,
		identity.ALPNAuth,
		func() (*tls.Certificate, error) { return nil, mine },
		time.Now,
		identity.Auth,
	)
	if _, err := cfg.GetClientCertificate(nil); !errors.Is(err, mine) {
		t.Errorf("got %v, want the client's own answer", err)
	}
	if cfg.MinVersion != tls.VersionTLS13 || !slices.Equal(cfg.NextProtos, []string{identity.ALPNAuth}) {
		t.Errorf("got TLS %x for %v, want 1.3 for one protocol", cfg.MinVersion, cfg.NextProtos)
	}
}

// A proxy keeps what it received for as long as a tunnel lasts, so it gets the leaf alone, which is enough
// for it.
func TestOnlyAuthGetsTheWholeChain(t *testing.T) {
	t.Parallel()
	whole := &tls.Certificate{Certificate: [][]byte{{1}, {2}, {3}}}
	own := func() (*tls.Certificate, error) { return whole, nil }
	for alpn, want := range map[string]int{identity.ALPNTunnel: 1, identity.ALPNDial: 1,
		identity.ALPNAuth: 3} {
		got, err := identity.PinnedTLS(identity.Pin{}, "c", alpn, own, time.Now).GetClientCertificate(nil)
		if err != nil || len(got.Certificate) != want {
			t.Errorf("%s: got %v, %v, want %d certificates", alpn, got, err, want)
		}
	}
	if len(whole.Certificate) != 3 {
		t.Error("got the certificate itself cut")
	}
}
