// Package issue answers: which certificate does this evidence earn?
//
// It is the only package, beside the root that wires it, that imports ca. Evidence comes from the packages
// that check it: login.Assured for users, join.Admitted for machines. What a certificate says comes from
// the evidence, from the roles and from the machine's record, never from the caller; a renewal therefore
// grants nothing new.
package issue

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/login"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// Policies gives the roles in force. state.Reader is one.
type Policies interface {
	Policy(ctx context.Context) (access.Policy, error)
}

// Renewals stores that a machine renewed its certificates. state.Machines is one.
type Renewals interface {
	RecordRenewal(
		ctx context.Context,
		id identity.MachineID,
		now time.Time,
		issued []json.RawMessage,
		events ...audit.Event,
	) error
}

// Rules gives what is returned together with certificates: machines get all signed rules, users only the
// authorities documents and the machine locks of them. rules.Publisher is one.
type Rules interface {
	Current() (signed.Set, <-chan struct{}, error)
	Authorities(ctx context.Context) ([]signed.Signed, error)
}

// Issuances appends the issuance records of certificates that nothing else is committed with. state.Issuances
// is one.
type Issuances interface {
	AppendIssuances(ctx context.Context, records []json.RawMessage, events ...audit.Event) error
}

// Config says what an issuer needs; all of it is required.
type Config struct {
	CA        *ca.CA
	Policies  Policies
	Renewals  Renewals
	Issuances Issuances
	Rules     Rules
	Cluster   string
	Now       func() time.Time
}

// Issuer issues certificates. It is safe for concurrent use.
type Issuer struct{ cfg Config }

// New makes an issuer.
func New(cfg Config) *Issuer { return &Issuer{cfg} }

// commit stores issuance records and events, together with what the certificates are issued for.
type commit func(ctx context.Context, issued []json.RawMessage, events ...audit.Event) error

// describe makes the audit event of an issuance.
type describe func(audit.Issuance) audit.Event

// issue asks the CA for certificates and releases them once store has committed their issuance records,
// together with the event that describe makes of the last one; nil: without an event.
func (i *Issuer) issue(
	ctx context.Context, store commit, event describe, requests ...ca.Request,
) ([]ca.Issued, error) {
	prepared, err := i.cfg.CA.Prepare(requests...)
	if err != nil {
		return nil, err
	}
	return prepared.Release(ctx, func(ctx context.Context, records []ca.Record) error {
		var encoded []json.RawMessage
		var last audit.Issuance
		for _, record := range records {
			b, err := json.Marshal(record)
			if err != nil {
				return recordNotEncoded.Wrap(err, "issue")
			}
			encoded = append(encoded, b)
			last = audit.Issuance{Serial: record.Serial, Until: record.NotAfter.UTC()}
		}
		if event == nil {
			return store(ctx, encoded)
		}
		return store(ctx, encoded, event(last))
	})
}

// ForLogin issues the certificates of a finished login.
func (i *Issuer) ForLogin(ctx context.Context, assured login.Assured) (authrpc.RedeemLoginResponse, error) {
	sshKey, x509Key := assured.Keys()
	return i.forUser(ctx, userLogin{
		who:     assured.Who(),
		sshKey:  sshKey,
		x509Key: x509Key,
		proxy:   assured.Proxy().Name,
		from:    assured.From(),
		maxTTL:  assured.MaxTTL(),
		commit:  commit(assured.Commit()),
	})
}

// userLogin is what a login has established. The keys were fixed when the login began.
type userLogin struct {
	who     identity.Identity
	sshKey  ssh.PublicKey
	x509Key crypto.PublicKey
	proxy   string        // the name of the proxy that served the login pages
	from    netip.Addr    // the browser's address, as that proxy saw it
	maxTTL  time.Duration // zero: only the roles limit the lifetime
	commit  commit        // uses the login up together with the issuance
}

// ttl is the lifetime of the user's certificates.
func (u userLogin) ttl(policy access.Policy) time.Duration {
	ttl := access.CertTTL(policy, u.who)
	if u.maxTTL > 0 {
		ttl = min(ttl, u.maxTTL)
	}
	return ttl
}

// forUser issues a user's SSH and X.509 certificates, both in one issuance, and returns them with what tsh
// needs to use them: the logins, the authorities documents and the machine locks. A user whose roles grant no
// login gets the X.509 certificate alone; SSHCert is then nil. The issuance, its audit event and the use of
// the login are one commit: if it fails, no certificate is released and the login can be tried again.
func (i *Issuer) forUser(ctx context.Context, finished userLogin) (authrpc.RedeemLoginResponse, error) {
	policy, err := i.policyFor(ctx, finished.who)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	authorities, err := i.cfg.Rules.Authorities(ctx)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	logins := access.Logins(policy, finished.who)
	event := func(issued audit.Issuance) audit.Event {
		return audit.New(i.cfg.Now(), finished.who, issued).Via(finished.proxy, finished.from)
	}
	released, err := i.issue(ctx, finished.commit, event, ca.Request{
		Profile:       ca.User,
		Identity:      finished.who,
		SSHKey:        finished.sshKey,
		X509Key:       finished.x509Key,
		Logins:        logins,
		SourceAddress: finished.who.SourceAddresses,
		Extensions:    access.Extensions(policy, finished.who),
		TTL:           finished.ttl(policy),
	})
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	issued := released[0]
	res := authrpc.RedeemLoginResponse{
		Identity:    issued.Record.Identity,
		X509:        encodeChain(issued.Chain),
		Logins:      logins,
		Authorities: authorities,
		Time:        i.cfg.Now().UTC(),
	}
	if issued.SSH != nil {
		res.SSHCert = issued.SSH.Marshal()
	}
	if set, _, err := i.cfg.Rules.Current(); err == nil { // users may log in before rules are signed
		if locks, ok := set.Docs[signed.MachineLocksKind]; ok {
			res.MachineLocks = &locks
		}
	}
	return res, nil
}

// policyFor returns the policy for the issue of a user's certificates. If a lock on what was issued before
// would hit them only because they say the time in whole seconds, it first waits for the next second.
func (i *Issuer) policyFor(ctx context.Context, who identity.Identity) (access.Policy, error) {
	for waited := false; ; waited = true {
		policy, err := i.cfg.Policies.Policy(ctx)
		now := i.cfg.Now()
		if err != nil || waited || !hitsOnlyThisSecond(policy.Locks, who, now) {
			return policy, err
		}
		next := time.NewTimer(now.Truncate(time.Second).Add(time.Second).Sub(now))
		defer next.Stop()
		select {
		case <-next.C:
		case <-ctx.Done():
			return policy, ctx.Err()
		}
	}
}

// hitsOnlyThisSecond reports whether a lock denies a user, or takes a role from them, who gets a certificate
// in this second, and would not if they got it in the next.
func hitsOnlyThisSecond(locks access.Locks, who identity.Identity, now time.Time) bool {
	at := func(second time.Time) access.Request {
		who.IssuedAt = second
		return access.Request{Who: who, Now: now}
	}
	second := now.UTC().Truncate(time.Second)
	this, next := at(second), at(second.Add(time.Second))
	_, denies := locks.Denying(this)
	if _, deniesNext := locks.Denying(next); denies && !deniesNext {
		return true
	}
	return slices.ContainsFunc(who.Roles, func(role string) bool {
		_, takes := locks.TakingRole(role, this)
		_, takesNext := locks.TakingRole(role, next)
		return takes && !takesNext
	})
}

// ForMachine issues a machine's host and service certificates for the keys on record, and returns them with
// the signed rules. Both are one commit, for a member that renews with the time of the renewal. It returns
// fault Unavailable before the first rules are signed; nothing is issued then.
func (i *Issuer) ForMachine(ctx context.Context, member join.Admitted) (authrpc.JoinResponse, error) {
	machine := member.Machine()
	set, _, err := i.cfg.Rules.Current()
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	id, names, now := machine.Identity(i.cfg.Cluster), i.hostNames(machine), i.cfg.Now().UTC()
	store := commit(i.cfg.Issuances.AppendIssuances)
	event := func(issued audit.Issuance) audit.Event { return audit.New(now, id, issued) }
	if member.Renewal() {
		event = func(issued audit.Issuance) audit.Event { return audit.New(now, id, audit.Renewal(issued)) }
		store = func(ctx context.Context, issued []json.RawMessage, events ...audit.Event) error {
			return i.cfg.Renewals.RecordRenewal(ctx, machine.ID, now, issued, events...)
		}
	}
	host := ca.Request{Profile: ca.Host, Identity: id, SSHKey: member.SSHKey(), Names: names}
	service := ca.Request{Profile: ca.Service, Identity: id, X509Key: member.ServiceKey(), Names: names}
	issued, err := i.issue(ctx, store, event, host, service)
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	return authrpc.JoinResponse{
		Identity: issued[1].Record.Identity,
		SSHCert:  issued[0].SSH.Marshal(),
		X509:     encodeChain(issued[1].Chain),
		Rules:    set,
		Time:     now,
	}, nil
}

// hostNames are the names in a machine's certificates: its name, bare and under the cluster; for a node
// also its id, in both forms; for a proxy also its public names.
func (i *Issuer) hostNames(m state.Machine) []string {
	own := []string{m.Name, m.Name + "." + i.cfg.Cluster}
	if m.Kind == identity.Node {
		return append(own, string(m.ID), string(m.ID)+"."+i.cfg.Cluster)
	}
	return slices.Concat(own, m.Names)
}

// ForAuth issues an auth replica's own service certificate, which it shows at its port. The chain ends
// with the cluster root, so that a client can verify it with the pin alone.
func (i *Issuer) ForAuth(
	ctx context.Context,
	id identity.Identity,
	key crypto.PublicKey,
) ([]*x509.Certificate, error) {
	r := ca.Request{Profile: ca.Service, Identity: id, X509Key: key, Names: []string{id.Name}}
	var noEvent describe // the issuance record is enough: no machine or user got anything
	issued, err := i.issue(ctx, i.cfg.Issuances.AppendIssuances, noEvent, r)
	if err != nil {
		return nil, err
	}
	return issued[0].Chain, nil
}

func encodeChain(chain []*x509.Certificate) [][]byte {
	out := make([][]byte, len(chain))
	for i, c := range chain {
		out[i] = c.Raw
	}
	return out
}
