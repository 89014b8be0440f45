package webcert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

// writePair writes a new certificate and its key to files "cert" and "key" and returns the certificate.
// Each serial gives the file another modification time.
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
	for name, block := range map[string]*pem.Block{
		"cert": {Type: "CERTIFICATE", Bytes: der},
		"key":  {Type: "PRIVATE KEY", Bytes: private},
	} {
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

// A renewed file is used from the next check on. A file that is half written does not replace the
// certificate.
func TestACertificateFileIsReadAgainWhenItChanges(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Now()
	first := writePair(t, dir, 1)
	c, err := New(t.Context(), Config{
		CertFile: filepath.Join(dir, "cert"),
		KeyFile:  filepath.Join(dir, "key"),
		Now:      func() time.Time { return now },
		Log:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	shown := func() []byte {
		cert, err := c.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Certificate[0]
	}
	if !bytes.Equal(shown(), first) {
		t.Error("got another certificate, want the one on disk")
	}
	second := writePair(t, dir, 2)
	if !bytes.Equal(shown(), first) {
		t.Error("got the renewed certificate before the next check, want the old one")
	}
	now = now.Add(checkEvery)
	if !bytes.Equal(shown(), second) {
		t.Error("got the old certificate, want the renewed one")
	}
	if err := os.WriteFile(filepath.Join(dir, "cert"), []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(checkEvery)
	if !bytes.Equal(shown(), second) {
		t.Error("got another certificate while the file is half written, want the one before")
	}
}

func TestMissingFilesFailAtStart(t *testing.T) {
	t.Parallel()
	_, err := New(t.Context(), Config{CertFile: "/nonexistent", KeyFile: "/nonexistent", Now: time.Now})
	if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want an invalid fault with a remedy", err)
	}
}

func TestWithoutFilesAndACMEBrowsersSeeTheServiceCertificate(t *testing.T) {
	t.Parallel()
	service := &tls.Certificate{}
	c, err := New(t.Context(), Config{Service: func() (*tls.Certificate, error) { return service, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(nil); got != service || err != nil || c.Challenge != nil {
		t.Errorf("got %v, %v, want the service certificate, and no answer to challenges", got, err)
	}
}
