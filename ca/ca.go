// Package ca answers: how is it signed?
//
// It turns a Request (facts that auth has established) into an SSH certificate, an X.509 certificate or both,
// in this order: check the request, draft what would be signed, lint the draft, sign, have the caller commit
// the issuance records, release. A certificate whose record is not committed is never released. Package
// keyring decides which key signs, and auth decides who may ask. ca is the only place that knows
// smallstep/certificates. DESIGN.md tells why.
package ca

import (
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
	Cluster string           // the cluster's name, for which Keys were generated; required
	Keys    *keyring.Keyring // required
	Now     func() time.Time // zero means time.Now
}

// CA issues certificates. It is safe for concurrent use: apart from lastIssued nothing in it changes after
// New, and calls of Prepare hold no lock while they sign.
type CA struct {
	cluster       string
	keys          *keyring.Keyring
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
	if cfg.Keys == nil {
		return nil, keysMissing.New("ca.New")
	}
	if cfg.Cluster != cfg.Keys.Cluster() {
		return nil, keysOfOtherCluster.New("ca.New", fault.Args{
			"found":  cfg.Keys.Cluster(),
			"wanted": cfg.Cluster,
		})
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &CA{cluster: cfg.Cluster, keys: cfg.Keys, now: cfg.Now}
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

// Prepare signs the certificates that the requests ask for. Nobody has them before Prepared.Release has their
// issuance records committed. It trusts Identity in the requests: the caller has established who the subjects
// are.
//
// Every error is a fault, and then nothing was prepared: Invalid or Expired for a request that must not be
// signed, Unavailable when the clock is wrong, Internal when signing fails.
func (c *CA) Prepare(requests ...Request) (*Prepared, error) {
	now, err := c.checkedNow()
	if err != nil {
		return nil, err
	}
	out := &Prepared{}
	for _, r := range requests {
		issued, err := c.prepare(r, now)
		if err != nil {
			return nil, err
		}
		out.issued = append(out.issued, issued)
	}
	return out, nil
}

// prepare signs the certificates of one request, and makes their record.
func (c *CA) prepare(r Request, now time.Time) (Issued, error) {
	drafted, err := c.draft(r, now) // this checks the request
	if err != nil {
		return Issued{}, err
	}
	// lint checks the finished draft a second time, so that a defect in draft cannot get it signed.
	if err := c.lint(drafted, now); err != nil {
		return Issued{}, certificateMalformed.Wrap(err, "ca.lint", fault.Args{"why": err.Error()})
	}
	out, err := c.sign(drafted)
	if err != nil {
		return Issued{}, certificateNotSigned.Wrap(err, "ca.sign")
	}
	out.Record = newRecord(drafted, out)
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
		return now, clockSetBack.New(opPrepare, fault.Args{
			"now":    now.Format(time.RFC3339),
			"issued": latest.Format(time.RFC3339),
		})
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
