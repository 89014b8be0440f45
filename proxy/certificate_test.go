package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

// writePair puts a fresh certificate and its key on disk and returns the certificate.
func writePair(t *testing.T, dir string, serial int64) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Unix(1_700_000_000+serial, 0)
	if err := os.Chtimes(filepath.Join(dir, "cert"), at, at); err != nil {
		t.Fatal(err)
	}
	return der
}

func TestACertificateFileIsReadAgainWhenItChanges(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	first := writePair(t, dir, 1)
	p := &Proxy{
		cfg: Config{
			CertFile: filepath.Join(dir, "cert"),
			KeyFile:  filepath.Join(dir, "key"),
			Now:      func() time.Time { return now },
			Log:      proxytest.Log(),
		},
	}
	files, err := p.webCertificate(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	shown := func() []byte {
		c, err := files.cert(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Certificate[0]
	}
	if !bytes.Equal(shown(), first) {
		t.Error("got another certificate, want the one on disk")
	}
	second := writePair(t, dir, 2)
	now = now.Add(lookEvery)
	if !bytes.Equal(shown(), second) {
		t.Error("got the old certificate, want the renewed one")
	}
	if err := os.WriteFile(filepath.Join(dir, "cert"), []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookEvery)
	if !bytes.Equal(shown(), second) {
		t.Error("got no certificate while the file is half written, want the one before")
	}
}

func TestStartFailuresReachRunAndReady(t *testing.T) {
	a := proxytest.New(t)
	boom := fault.New(fault.Unauthenticated, "test", "no token", "ask for one")
	for name, tt := range map[string]struct {
		cert  string
		enter func(context.Context) (Member, error)
		kind  fault.Kind
	}{
		"no membership":  {"", func(context.Context) (Member, error) { return nil, boom }, fault.Unauthenticated},
		"no certificate": {"/nonexistent", func(context.Context) (Member, error) { return membership{a, nil}, nil }, fault.Invalid},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p, err := New(Config{
			Listener: ln,
			Public:   []string{"proxy.example.com"},
			Dir:      t.TempDir(),
			AuthAddr: a.Addr(),
			CertFile: tt.cert,
			KeyFile:  tt.cert,
			Log:      proxytest.Log(),
		})
		if err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		go func() { ran <- p.run(t.Context(), tt.enter) }()
		ready := p.Ready(t.Context())
		if err := <-ran; !fault.Is(err, tt.kind) || !errors.Is(ready, err) || fault.Remedy(err) == "" {
			t.Errorf(
				"%s: got %v from Run and %v from Ready, want %s with a remedy from both",
				name,
				err,
				ready,
				tt.kind,
			)
		}
		if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
			t.Errorf("%s: got the port still open", name)
		}
	}
}

func writeCertificate(t *testing.T, file string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
