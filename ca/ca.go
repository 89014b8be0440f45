// Package ca answers: how is it signed?
//
// It turns a Request (facts that auth has established) into an SSH certificate, an X.509 certificate or both,
// in this order: check the request, draft what would be signed, lint the draft, sign, have the issuance
// recorded, release. An unrecorded certificate never leaves. Which key signs is keyring's question; who may
// ask is auth's. It is the one place that knows smallstep/certificates. See DESIGN.md for why.
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
	Cluster  string           // the cluster's name; required, and the one the keys were born for
	Keys     *keyring.Keyring // required
	Recorder Recorder         // required: nothing is released unrecorded
	Now      func() time.Time // zero: time.Now
}

// CA issues certificates. It is safe for concurrent use.
type CA struct {
	cluster       string
	keys          *keyring.Keyring
	recorder      Recorder
	now           func() time.Time
	user          *softcas.SoftCAS // signs user X.509
	service       *softcas.SoftCAS // signs service X.509
	namePolicy    namePolicy
	authorityKeys [][]byte // the authorities' own public keys, DER: never a subject's

	mu         sync.Mutex // guards latest
	lastIssued time.Time  // the latest time at which something was issued: the clock may not fall behind it by more than identity.Skew
}

// New makes a CA.
func New(cfg Config) (*CA, error) {
	if cfg.Keys == nil || cfg.Recorder == nil {
		return nil, fault.New(
			fault.Internal,
			"ca.New",
			"the CA lacks keys or a recorder",
			"report this defect",
		)
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
	c.namePolicy, err = newNamePolicy(c.cluster)
	return c, err
}

func authorityKeys(p keyring.Public) ([][]byte, error) {
	var out [][]byte
	for _, cert := range slices.Concat([]*x509.Certificate{p.Root}, p.UserX509, p.ServiceX509) {
		out = append(out, cert.RawSubjectPublicKeyInfo)
	}
	var plain []crypto.PublicKey
	for _, k := range slices.Concat(p.UserSSH, p.HostSSH) {
		plain = append(plain, k.(ssh.CryptoPublicKey).CryptoPublicKey())
	}
	for _, k := range p.Rules {
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

// Issued is what a request yields, once recorded.
type Issued struct {
	SSH    *ssh.Certificate
	X509   *x509.Certificate
	Chain  []*x509.Certificate // leaf first; for Service then the intermediate and the cluster root
	Record Record
}

// Issue checks, lints, signs, records and only then releases. Every error is a fault; a refusal signs
// nothing.
func (c *CA) Issue(ctx context.Context, r Request) (Issued, error) {
	now, err := c.clock()
	if err != nil {
		return Issued{}, err
	}
	d, err := c.draft(r, now)
	if err != nil {
		return Issued{}, err
	}
	if err := c.lint(d, now); err != nil {
		return Issued{}, fault.Wrap(
			err,
			fault.Invalid,
			"ca.lint",
			"the certificate would not be well formed: "+err.Error(),
			"ask an administrator to look at the request",
		)
	}
	out, err := c.sign(d)
	if err != nil {
		return Issued{}, fault.Wrap(
			err,
			fault.Internal,
			"ca.sign",
			"the certificate could not be signed",
			"look at the log of auth",
		)
	}
	out.Record = newRecord(d, out)
	if err := c.recorder.RecordIssuance(ctx, out.Record); err != nil {
		return Issued{}, fault.Wrap(
			err,
			fault.Unavailable,
			"ca.Issue",
			"the certificate could not be recorded, so it was not released",
			"try again in a moment",
		)
	}
	return out, nil
}

// clock gives the time, and refuses to work when it has gone back behind what was issued or behind the birth
// of the authorities: a certificate that begins and ends in the past helps nobody but who set the clock.
func (c *CA) clock() (time.Time, error) {
	now := c.now().UTC()
	c.mu.Lock()
	defer c.mu.Unlock()
	floor := c.lastIssued
	if born := c.keys.Root().NotBefore.Add(identity.Skew); born.After(floor) {
		floor = born
	}
	if now.Before(floor.Add(-identity.Skew)) {
		return now, fault.New(
			fault.Unavailable,
			"ca.Issue",
			fmt.Sprintf(
				"the clock of auth says %s, which is before certificates it issued (%s)",
				now.Format(
					time.RFC3339,
				),
				floor.Format(time.RFC3339),
			),
			"set the clock of the auth host, then restart auth",
		)
	}
	if now.After(c.lastIssued) {
		c.lastIssued = now
	}
	return now, nil
}

// newSerial draws 64 random bits, never zero. The SSH and the X.509 certificate of one request share it, so
// one number finds both.
func newSerial() identity.Serial {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return identity.Serial(n)
		}
	}
}
