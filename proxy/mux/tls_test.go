package mux_test

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

// The least version is TLS 1.3 for threshold-* protocols and TLS 1.2 for browsers.
func TestOldVersionsOfTLSAreRefused(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	port := startMux(t, auth, openRules(t, auth))
	user := auth.UserCertificate(auth.User("alice@example.com"), nil)
	node := auth.MachineCertificate(auth.Machine(identity.Node, "web-1", nil), nil)
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
		err := port.handshake(&tls.Config{
			NextProtos:   tt.alpn,
			Certificates: certs(tt.cert),
			MinVersion:   tls.VersionTLS10,
			MaxVersion:   tt.version,
		})
		version := tls.VersionName(tt.version)
		if (err == nil) != tt.served {
			t.Errorf("%s with %s: got %v, want served %v", tt.name, version, err, tt.served)
		}
		if !tt.served && err != nil && !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("%s with %s: got %v, want an error about the version", tt.name, version, err)
		}
	}
	port.stop()
}
