package mux_test

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

// The floor is what each door says, whatever a client would rather speak: 1.3 for our own protocols, 1.2 for
// browsers.
func TestOldVersionsOfTLSAreRefused(t *testing.T) {
	a := proxytest.New(t)
	p := startMux(t, a, openRules(t, a))
	user, node := a.UserCertificate(
		a.User("alice@example.com"),
		nil,
	), a.MachineCertificate(
		a.Machine(identity.Node, "web-1", nil),
		nil,
	)
	for _, tt := range []struct {
		name    string
		alpn    []string
		cert    *tls.Certificate
		version uint16
		served  bool
	}{
		{"a browser", []string{"h2", "http/1.1"}, nil, tls.VersionTLS13, true},
		{"a browser", []string{"h2", "http/1.1"}, nil, tls.VersionTLS12, true},
		{"a browser", []string{"http/1.1"}, nil, tls.VersionTLS11, false},
		{"a browser", nil, nil, tls.VersionTLS10, false},
		{"a user", []string{identity.ALPNDial}, user, tls.VersionTLS13, true},
		{"a user", []string{identity.ALPNDial}, user, tls.VersionTLS12, false},
		{"a node", []string{identity.ALPNTunnel}, node, tls.VersionTLS13, true},
		{"a node", []string{identity.ALPNTunnel}, node, tls.VersionTLS12, false},
	} {
		err := p.handshake(&tls.Config{
			NextProtos:   tt.alpn,
			Certificates: certs(tt.cert),
			MinVersion:   tls.VersionTLS10,
			MaxVersion:   tt.version,
		})
		if (err == nil) != tt.served {
			t.Errorf(
				"%s with %s: got %v, want served %v",
				tt.name,
				tls.VersionName(tt.version),
				err,
				tt.served,
			)
		}
		if !tt.served && err != nil && !strings.Contains(err.Error(), "protocol version") {
			t.Errorf(
				"%s with %s: got %v, want the version to be why",
				tt.name,
				tls.VersionName(tt.version),
				err,
			)
		}
	}
	p.stop()
}
