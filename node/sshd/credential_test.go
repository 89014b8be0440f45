package sshd_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
	"github.com/threshold-access/threshold/node/sshd"
)

// newer returns the certificate and the key of a login whose certificate ends this much later than others.
func (f *fixture) newer(who identity.Identity, later time.Duration) (*ssh.Certificate, ssh.Signer) {
	f.t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	key, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		f.t.Fatal(err)
	}
	cert := f.cluster.UserCert(key.PublicKey(), who, func(cert *ssh.Certificate) {
		cert.ValidBefore += uint64(later / time.Second)
	}, testAccount())
	return cert, key
}

// show shows the node a certificate on the connection, and returns its fault.
func (f *fixture) show(c *ssh.Client, cert *ssh.Certificate, key ssh.Signer) error {
	f.t.Helper()
	payload, err := dial.SignCertificateUpdate(c.SessionID(), cert, key)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.showPayload(c, payload)
}

func (f *fixture) showPayload(c *ssh.Client, payload []byte) error {
	f.t.Helper()
	taken, reply, err := c.SendRequest(dial.CertificateUpdate, true, payload)
	switch {
	case err != nil:
		f.t.Fatal(err)
	case taken:
		return nil
	}
	refusal, ok := fault.ParseObject(reply)
	if !ok {
		f.t.Fatalf("got the reply %q, want a fault", reply)
	}
	return refusal
}

// A user logs in again while a session runs. The session lasts with the newer certificate, is decided by it,
// and is in the audit log with it; then it ends with it.
func TestASessionLastsWithANewerCertificate(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	f := newFixture(t, func(c *sshd.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	f.connectAs(wireFaults)
	bystander := hold(t, f.client())
	c := f.client()
	session := hold(t, c)
	again := f.cluster.User("alice@example.com", "ops")
	again.LoginID = "login-2"
	cert, key := f.newer(again, 2*time.Hour)
	if err := f.show(c, cert, key); err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(90 * time.Minute)) // past the first certificate
	f.setRules(f.cluster.SignRulesAt(time.Now().Add(90 * time.Minute)))
	if got := bystander.ended(t); got.status != 124 {
		t.Errorf("got %+v, want the connection that showed nothing to end with its certificate", got)
	}
	session.echoes(t)
	hold(t, c).echoes(t)
	f.lock(access.NewLock(access.Facts{LoginID: "login-1"}, access.Effect{Kind: access.Deny}))
	session.echoes(t)
	f.lock(access.NewLock(access.Facts{LoginID: "login-2"}, access.Effect{Kind: access.Deny}))
	if got := session.ended(t); got.status != 124 {
		t.Errorf("got %+v, want the lock of the newer login to end the session", got)
	}
	f.await(t, "three ends in the audit log", func() bool { return len(f.recorded(audit.SessionEnded)) == 3 })
	if id := f.recorded(audit.SessionEnded)[2].Actor.LoginID; id != "login-2" {
		t.Errorf("got the end by %q, want by the newer login", id)
	}
}

// wireFaults makes a client read faults.
var wireFaults = wire.Features{dial.Faults}

// The newer certificate has fewer roles: what only the older one allowed ends.
func TestANewerCertificateCountsAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.connectAs(wireFaults)
	f.allow(fullRole("ops", "exec"), fullRole("forwards", "forward-local"))
	alice := f.cluster.User("alice@example.com", "ops", "forwards")
	c := f.client(f.cluster.UserSigner(alice, nil, testAccount()))
	session := hold(t, c)
	direct, err := c.Dial("tcp", startEcho(t, "tcp").String())
	if err != nil {
		t.Fatal(err)
	}
	cert, key := f.newer(f.cluster.User("alice@example.com", "ops"), time.Hour)
	if err := f.show(c, cert, key); err != nil {
		t.Fatal(err)
	}
	if n, err := direct.Read(make([]byte, 1)); err == nil {
		t.Errorf("got %d bytes from a forwarded connection, want it closed", n)
	}
	session.echoes(t)
}

// Certificates that do not count: nothing changes by them.
func TestCertificatesThatDoNotCount(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.connectAs(wireFaults)
	c := f.client()
	session := hold(t, c)
	alice := f.cluster.User("alice@example.com", "ops")
	good, key := f.newer(alice, time.Hour)
	payloadFor := func(sessionID []byte, cert *ssh.Certificate, key ssh.Signer) []byte {
		b, err := dial.SignCertificateUpdate(sessionID, cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	of := func(who identity.Identity, later time.Duration) []byte {
		cert, key := f.newer(who, later)
		return payloadFor(c.SessionID(), cert, key)
	}
	other := f.cluster.User("alice@example.com", "ops")
	other.Connector = "partner" // who has the same name there is somebody else
	_, foreignKey := f.newer(alice, time.Hour)
	stranger := bytes.Clone(good.Marshal())
	for name, tt := range map[string]struct {
		payload []byte
		says    string
	}{
		"of another user":      {of(f.cluster.User("bob@example.com", "ops"), time.Hour), "bob@example.com"},
		"of another connector": {of(other, time.Hour), "the newer certificate is of"},
		"that ends earlier":    {of(alice, -time.Minute), "does not end later"},
		"without a role":       {of(f.cluster.User("alice@example.com"), time.Hour), "no role of"},
		"of another session":   {payloadFor([]byte("another"), good, key), "could not be read"},
		"without its key":      {payloadFor(c.SessionID(), good, foreignKey), "could not be read"},
		"that is no update":    {stranger, "could not be read"},
		"that the authority has not signed": {
			payloadFor(c.SessionID(), selfSigned(t, good, key), key), "authority",
		},
	} {
		if err := f.showPayload(c, tt.payload); err == nil || !strings.Contains(fault.Message(err), tt.says) {
			t.Errorf("a certificate %s: got %v, want it refused with %q", name, err, tt.says)
		}
	}
	session.echoes(t)
	f.lock(lockOn(alice))
	session.ended(t)
}

// selfSigned returns the certificate, signed by its own key.
func selfSigned(t *testing.T, cert *ssh.Certificate, key ssh.Signer) *ssh.Certificate {
	t.Helper()
	forged := *cert
	if err := forged.SignCert(rand.Reader, key); err != nil {
		t.Fatal(err)
	}
	return &forged
}

// Many certificates on one connection are bounded.
func TestCertificatesOfOneConnectionAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.connectAs(wireFaults)
	c := f.client()
	alice := f.cluster.User("alice@example.com", "ops")
	var err error
	shown := 0
	for ; shown < 200 && err == nil; shown++ {
		cert, key := f.newer(alice, time.Duration(shown+1)*time.Minute)
		err = f.show(c, cert, key)
	}
	if !fault.Is(err, fault.Exhausted) || shown != 100 {
		t.Errorf("got %v after %d, want a bound of 100 with the first", err, shown)
	}
	hold(t, c).echoes(t)
}
