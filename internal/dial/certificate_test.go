package dial_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
)

// newKey returns a key, and a certificate for it.
func newKey(t testing.TB) (ssh.Signer, *ssh.Certificate) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{
		Key:             key.PublicKey(),
		CertType:        ssh.UserCert,
		ValidPrincipals: []string{"ubuntu"},
		ValidBefore:     uint64(time.Now().Add(time.Hour).Unix()),
	}
	if err := cert.SignCert(rand.Reader, key); err != nil { // who signed it does not matter here
		t.Fatal(err)
	}
	return key, cert
}

// An update is for one SSH session, one certificate, and by the key of that certificate.
func TestACertificateUpdateIsForOneSession(t *testing.T) {
	t.Parallel()
	key, cert := newKey(t)
	other, otherCert := newKey(t)
	session := []byte("session id")
	payload := func(key ssh.Signer, cert *ssh.Certificate) []byte {
		b, err := dial.SignCertificateUpdate(session, cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := payload(key, cert)
	got, err := dial.OpenCertificateUpdate(session, good)
	if err != nil || !bytes.Equal(got.Marshal(), cert.Marshal()) {
		t.Fatalf("got %v, %v, want the certificate", got, err)
	}
	login, err := key.Sign(rand.Reader, good) // what a node could have from elsewhere
	if err != nil {
		t.Fatal(err)
	}
	type update struct{ Certificate, Signature []byte }
	for name, bad := range map[string][]byte{
		"signed by another key":         payload(other, cert),
		"another certificate":           payload(key, otherCert),
		"nothing":                       nil,
		"cut":                           good[:len(good)-1],
		"with bytes behind it":          append(bytes.Clone(good), 0),
		"a key without a certificate":   ssh.Marshal(update{key.PublicKey().Marshal(), ssh.Marshal(login)}),
		"a signature of something else": ssh.Marshal(update{cert.Marshal(), ssh.Marshal(login)}),
		"no signature":                  ssh.Marshal(update{cert.Marshal(), nil}),
		"too large":                     make([]byte, 64<<10),
	} {
		if got, err := dial.OpenCertificateUpdate(session, bad); err == nil {
			t.Errorf("%s: got %v, want it refused", name, got)
		}
	}
	if got, err := dial.OpenCertificateUpdate([]byte("another session"), good); err == nil {
		t.Errorf("another session: got %v, want it refused", got)
	}
}

func FuzzOpenCertificateUpdate(f *testing.F) {
	key, cert := newKey(f)
	good, err := dial.SignCertificateUpdate([]byte("session id"), cert, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := dial.OpenCertificateUpdate([]byte("session id"), payload)
		if err == nil && got.Key == nil {
			t.Error("got a certificate without a key")
		}
	})
}

func TestTheGoldenCertificateUpdateIsRead(t *testing.T) {
	t.Parallel()
	payload, err := hex.DecodeString(golden(t, "certificate.txt"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := dial.OpenCertificateUpdate([]byte("golden session"), payload)
	if err != nil || len(cert.ValidPrincipals) != 1 || cert.ValidPrincipals[0] != "ubuntu" {
		t.Errorf("got %+v, %v, want the golden certificate", cert, err)
	}
}
