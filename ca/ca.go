// Package ca answers: how is it signed?
//
// It turns a Request (facts that auth has established) into an SSH certificate, an X.509 certificate or both,
// in this order: check the request, draft what would be signed, lint the draft, sign, have the issuance
// recorded, release. A certificate that is not recorded is never released. Package keyring decides which key
// signs, and auth decides who may ask. ca is the only place that knows smallstep/certificates. DESIGN.md
// tells why.
package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/smallstep/certificates/cas/softcas"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Config says what a CA needs.
type Config struct {
	Cluster  string           // the cluster's name, for which Keys were generated; required
	Keys     *keyring.Keyring // required
	Recorder Recorder         // stores each issuance before release; required
	Now      func() time.Time // zero means time.Now
}

// CA issues certificates. It is safe for concurrent use: apart from lastIssued nothing in it changes after
// New, and calls of Issue hold no lock while they sign or record.
type CA struct {
	cluster       string
	keys          *keyring.Keyring
	recorder      Recorder
	now           func() time.Time
	user          *softcas.SoftCAS // signs user X.509
	service       *softcas.SoftCAS // signs service X.509
	namePolicy    namePolicy
	authorityKeys [][]byte // the authorities' own public keys (DER), refused as keys of a subject

	mu sync.Mutex // guards lastIssued; no other lock is taken while it is held

	// lastIssued is the latest time that checkedNow returned; the zero time before it returned any.
	lastIssued time.Time
}

// New makes a CA that signs with the keys of cfg. It returns fault Invalid when the keys are of another
// cluster than cfg.Cluster, for example because the data folder of another cluster is configured.
func New(cfg Config) (*CA, error) {
	if cfg.Keys == nil || cfg.Recorder == nil {
		const msg = "the CA lacks keys or a recorder"
		return nil, fault.New(fault.Internal, "ca.New", msg, "report this defect")
	}
	if cfg.Cluster != cfg.Keys.Cluster() {
		return nil, fault.New(
			fault.Invalid,
			"ca.New",
			fmt.Sprintf("the keys are of cluster %q, not %q", cfg.Keys.Cluster(), cfg.Cluster),
			"start with the data of the cluster that the configuration names",
		)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &CA{cluster: cfg.Cluster, keys: cfg.Keys, recorder: cfg.Recorder, now: cfg.Now}
	var err error
	if c.user, err = newX509Signer(c.keys.UserX509); err != nil {
		return nil, err
	}
	if c.service, err = newX509Signer(c.keys.ServiceX509); err != nil {
		return nil, err
	}
	if c.authorityKeys, err = authorityKeys(c.keys.Public()); err != nil {
		return nil, err
	}
	if c.namePolicy, err = newNamePolicy(c.cluster); err != nil {
		return nil, err
	}
	return c, nil
}

// authorityKeys are the public keys of the root and of all authorities, as DER. No subject may have one of
// them.
func authorityKeys(public keyring.Public) ([][]byte, error) {
	var out [][]byte
	certs := slices.Concat([]*x509.Certificate{public.Root}, public.UserX509, public.ServiceX509)
	for _, cert := range certs {
		out = append(out, cert.RawSubjectPublicKeyInfo)
	}
	var plain []crypto.PublicKey
	for _, k := range slices.Concat(public.UserSSH, public.HostSSH) {
		plain = append(plain, k.(ssh.CryptoPublicKey).CryptoPublicKey())
	}
	for _, k := range public.Rules {
		plain = append(plain, k)
	}
	for _, k := range plain {
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, fmt.Errorf("encode an authority's key: %w", err)
		}
		out = append(out, der)
	}
	return out, nil
}

// Issued has the certificates of one request. They are recorded.
type Issued struct {
	SSH    *ssh.Certificate    // nil if none was asked for, or for a user without logins
	X509   *x509.Certificate   // nil if none was asked for
	Chain  []*x509.Certificate // leaf first; for Service followed by the intermediate and the cluster root
	Record Record
}

// Issue signs the certificates that r asks for, has their issuance recorded, and only then returns them. It
// trusts r.Identity: the caller has established who the subject is.
//
// Every error is a fault, and then no certificate leaves the CA: Invalid or Expired for a request that must
// not be signed, Unavailable when the clock is wrong or the record cannot be stored, Internal when signing
// fails.
func (c *CA) Issue(ctx context.Context, r Request) (Issued, error) {
	now, err := c.checkedNow()
	if err != nil {
		return Issued{}, err
	}
	drafted, err := c.draft(r, now) // this checks the request
	if err != nil {
		return Issued{}, err
	}
	// lint checks the finished draft a second time, so that a defect in draft cannot get it signed.
	if err := c.lint(drafted, now); err != nil {
		return Issued{}, fault.Wrap(
			err,
			fault.Invalid,
			"ca.lint",
			"the certificate would not be well formed: "+err.Error(),
			"ask an administrator to look at the request",
		)
	}
	out, err := c.sign(drafted)
	if err != nil {
		const msg, remedy = "the certificate could not be signed", "look at the log of auth"
		return Issued{}, fault.Wrap(err, fault.Internal, "ca.sign", msg, remedy)
	}
	// A certificate without a record could be used without a trace, so it is not returned.
	out.Record = newRecord(drafted, out)
	if err := c.recorder.RecordIssuance(ctx, out.Record); err != nil {
		const msg = "the certificate could not be recorded, so it was not released"
		return Issued{}, fault.Wrap(err, fault.Unavailable, "ca.Issue", msg, "try again in a moment")
	}
	return out, nil
}

// checkedNow returns the time of the clock, unless the clock was set back: then it returns fault Unavailable.
// Whoever can set the clock back could otherwise get certificates for a time in the past. The clock must not
// be before the last issuance since the start, nor before the authorities were created, by more than
// identity.Skew.
func (c *CA) checkedNow() (time.Time, error) {
	now := c.now().UTC()
	c.mu.Lock()
	defer c.mu.Unlock()
	latest := c.lastIssued
	// The root's certificate begins identity.Skew before the authorities were created.
	if created := c.keys.Root().NotBefore.Add(identity.Skew); created.After(latest) {
		latest = created
	}
	if now.Before(latest.Add(-identity.Skew)) {
		const format = "the clock of auth says %s, which is before certificates it issued (%s)"
		return now, fault.New(
			fault.Unavailable,
			"ca.Issue",
			fmt.Sprintf(format, now.Format(time.RFC3339), latest.Format(time.RFC3339)),
			"set the clock of the auth host, then restart auth",
		)
	}
	if now.After(c.lastIssued) {
		c.lastIssued = now
	}
	return now, nil
}

// newSerial returns 64 random bits, never zero. The SSH and the X.509 certificate of one request share the
// serial, so one number finds both.
func newSerial() identity.Serial {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return identity.Serial(n)
		}
	}
}
