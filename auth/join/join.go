// Package join answers: may this machine become a node or a proxy, and is this machine still the one that
// joined?
//
// A machine is admitted once, by a one-use token and proof that it holds its key; ever after by the key on
// record. (While the token lives it may ask again with both, because an answer may be lost.) Either yields
// Admitted, the only thing that auth/issue makes machine certificates for. What is not from a token leaves no
// trace in the store.
package join

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"maps"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Config says what admission needs; all of it is required.
type Config struct {
	State   *state.State
	Cluster string
	Pin     identity.Pin // goes into tokens
	Now     func() time.Time
}

// Service admits machines. It is safe for concurrent use.
type Service struct{ cfg Config }

// New makes a door.
func New(cfg Config) *Service { return &Service{cfg} }

// Admitted is a machine that auth knows, shown by its token or by its key. Only Admit and Recognise make one.
type Admitted struct {
	machine state.Machine
	ssh     ssh.PublicKey
	service crypto.PublicKey
	renewal bool
}

// Machine is the machine's record: its certificates say this and nothing else.
func (a Admitted) Machine() state.Machine { return a.machine }

// SSHKey is the host key on record.
func (a Admitted) SSHKey() ssh.PublicKey { return a.ssh }

// ServiceKey is the X.509 key on record.
func (a Admitted) ServiceKey() crypto.PublicKey { return a.service }

// Renewal reports whether the machine was a member before.
func (a Admitted) Renewal() bool { return a.renewal }

const (
	op             = "join"
	newTokenRemedy = "make a new one: tsh token create"
	// maxLabels bounds what a machine may be labelled with, beside what fits into its certificates.
	maxLabels = 64
	// maxNames bounds a proxy's public names, as ca does.
	maxNames = 32
	// maxTries bounds how many names are tried for one machine.
	maxTries = 1000
)

// Admit makes a machine of whoever shows a good token and proves the key it brings. The token is spent in the
// transaction that stores the machine. Of a token that auth never made nothing is said and nothing kept.
func (d *Service) Admit(ctx context.Context, r authrpc.JoinRequest) (Admitted, error) {
	now := d.cfg.Now()
	token, err := authrpc.ParseToken(r.Token)
	if err != nil {
		return Admitted{}, fault.Wrap(err, fault.Denied, op, err.Error(), newTokenRemedy)
	}
	kept, err := d.cfg.State.TokenByHash(ctx, token.Hash())
	if fault.Is(err, fault.NotFound) {
		return Admitted{}, fault.New(fault.Denied, op, "this join token is not known", newTokenRemedy)
	}
	if err != nil {
		return Admitted{}, err
	}
	if a, ok := d.admitAgain(ctx, kept.Value, r, now); ok {
		return a, nil
	}
	if err := d.checkToken(ctx, kept, now); err != nil {
		return Admitted{}, err
	}
	a, err := d.checkRequest(r, kept.Value, now)
	if err != nil {
		return Admitted{}, d.recordRefusal(ctx, kept, err)
	}
	return d.register(ctx, a, kept, r)
}

// admitAgain admits a machine whose answer was lost: it shows the token it joined with, in the token's time,
// and proves the keys it joined with. What it wishes now changes nothing of the record.
func (d *Service) admitAgain(
	ctx context.Context,
	t state.Token,
	r authrpc.JoinRequest,
	now time.Time,
) (Admitted, bool) {
	if t.UsedBy == "" || !now.Before(t.Expires) {
		return Admitted{}, false
	}
	m, err := d.cfg.State.Machine(ctx, t.UsedBy)
	if err != nil || !bytes.Equal(m.Value.SSHKey, r.SSHKey) || !bytes.Equal(m.Value.X509Key, r.X509Key) {
		return Admitted{}, false
	}
	a, err := d.checkRequest(r, t, now)
	a.machine, a.renewal = m.Value, true
	return a, err == nil
}

// checkToken refuses a token whose one use or whose time is over.
func (d *Service) checkToken(ctx context.Context, kept state.Stored[state.Token], now time.Time) error {
	t := kept.Value
	switch {
	case !t.Used.IsZero():
		return d.recordRefusal(
			ctx,
			kept,
			fault.New(
				fault.Denied,
				op,
				"this join token was used already, at "+formatTime(t.Used),
				newTokenRemedy,
			),
		)
	case !now.Before(t.Expires):
		return d.recordRefusal(
			ctx,
			kept,
			fault.New(fault.Expired, op, "this join token ended at "+formatTime(t.Expires), newTokenRemedy),
		)
	}
	return nil
}

// maxRefusals bounds what the holder of a spent token can write into the audit log.
const maxRefusals = 5

// recordRefusal notes that a token which auth did make was refused. Losing the note to a race or a full disk
// changes nothing of the answer.
func (d *Service) recordRefusal(ctx context.Context, kept state.Stored[state.Token], why error) error {
	if kept.Value.Refused >= maxRefusals || fault.Is(why, fault.Internal) || fault.Is(why, fault.Conflict) {
		return why
	}
	e := audit.Event{Code: audit.JoinRefused, Time: d.cfg.Now().UTC(), Reason: fault.Message(why),
		Fields: map[string]string{"token": kept.Key, "kind": string(kept.Value.Kind)}}
	if err := d.cfg.State.Tokens.CountRefusal(ctx, kept, e); err != nil && !fault.Is(err, fault.Conflict) {
		return fmt.Errorf("%w (and the refusal could not be noted: %v)", why, err)
	}
	return why
}

// checkRequest turns the request into a machine, or says what is wrong with it.
func (d *Service) checkRequest(r authrpc.JoinRequest, t state.Token, now time.Time) (Admitted, error) {
	if r.Kind != t.Kind {
		return Admitted{}, fault.New(
			fault.Denied,
			op,
			fmt.Sprintf("this join token is for a %s, not for a %.20q", t.Kind, r.Kind),
			newTokenRemedy,
		)
	}
	if err := checkClock(r.Time, now); err != nil {
		return Admitted{}, err
	}
	a, err := readKeys(r)
	if err != nil {
		return Admitted{}, fault.Wrap(
			err,
			fault.Invalid,
			op,
			"the machine's keys are not acceptable: "+err.Error(),
			"update the agent, then remove its data folder and join again",
		)
	}
	if err := checkProof(r, a.service); err != nil {
		return Admitted{}, err
	}
	labels := identity.Labels{}
	maps.Copy(labels, r.Labels)
	maps.Copy(labels, t.Labels) // what the administrator said wins
	a.machine = state.Machine{
		ID:      identity.MachineID(state.NewID()),
		Kind:    r.Kind,
		Labels:  labels,
		SSHKey:  r.SSHKey,
		X509Key: r.X509Key,
		Names:   r.PublicNames,
		Created: now.UTC(),
		Renewed: now.UTC(),
	}
	return a, d.checkMachine(&a.machine)
}

// checkClock refuses a machine whose clock would make its certificates fail in ways nobody understands.
func checkClock(theirs, ours time.Time) error {
	off := theirs.Sub(ours)
	if off.Abs() <= identity.Skew {
		return nil
	}
	word := "ahead"
	if off < 0 {
		word = "behind"
	}
	return fault.New(
		fault.Invalid,
		op,
		fmt.Sprintf(
			"this machine's clock says %s, auth's says %s: it is %s %s",
			formatTime(theirs),
			formatTime(ours),
			off.Abs().
				Round(time.Second),
			word,
		),
		"set this machine's clock (timedatectl set-ntp true), then start it again",
	)
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func readKeys(r authrpc.JoinRequest) (a Admitted, err error) {
	if a.ssh, err = ssh.ParsePublicKey(r.SSHKey); err != nil {
		return a, err
	}
	if err := identity.CheckSSHKey(a.ssh); err != nil {
		return a, err
	}
	if a.service, err = x509.ParsePKIXPublicKey(r.X509Key); err != nil {
		return a, err
	}
	return a, identity.CheckKey(a.service)
}

// checkProof checks that the machine holds the key, and means this token and this host key.
func checkProof(r authrpc.JoinRequest, key crypto.PublicKey) error {
	pub, ok := key.(*ecdsa.PublicKey)
	sum := authrpc.JoinProof(r.Token, r.SSHKey, r.X509Key)
	if !ok || !ecdsa.VerifyASN1(pub, sum[:], r.Proof) {
		return fault.New(
			fault.Denied,
			op,
			"the machine does not prove that it holds its key",
			"update the agent, then remove its data folder and join again",
		)
	}
	return nil
}

// register finds a name and stores the machine; names and the token may be taken meanwhile, so it looks
// again.
func (d *Service) register(
	ctx context.Context,
	a Admitted,
	kept state.Stored[state.Token],
	r authrpc.JoinRequest,
) (Admitted, error) {
	wish := r.Name
	if kept.Value.Machine != "" {
		wish = kept.Value.Machine
	}
	var err error
	for range 8 {
		if a.machine.Name, err = d.chooseName(ctx, a.machine, wish); err != nil {
			return Admitted{}, d.recordRefusal(ctx, kept, err)
		}
		e := audit.NewEvent(audit.MachineJoined, a.machine.Identity(d.cfg.Cluster), a.machine.Created)
		e.Fields = map[string]string{"kind": string(a.machine.Kind), "token": kept.Key, "by": kept.Value.By}
		err = d.cfg.State.Machines.AddMachine(ctx, a.machine, kept, e)
		if !fault.Is(err, fault.Conflict) {
			break
		}
		if kept, err = d.cfg.State.Token(ctx, kept.Key); err != nil {
			return Admitted{}, err
		}
		if same, ok := d.admitAgain(ctx, kept.Value, r, d.cfg.Now()); ok {
			return same, nil
		}
		if err := d.checkToken(ctx, kept, d.cfg.Now()); err != nil {
			return Admitted{}, err
		}
		err = fault.New(fault.Conflict, op, "others joined at the same moment", "start the machine again")
	}
	if err != nil {
		return Admitted{}, d.recordRefusal(ctx, kept, err)
	}
	return a, nil
}

// VerifyMember tells whether the caller is a machine on record that still holds the recorded key. It is asked
// at every call of a machine.
func (d *Service) VerifyMember(ctx context.Context, c authrpc.Caller) (Admitted, error) {
	m, err := d.cfg.State.Machine(ctx, c.ID)
	gone := fault.New(
		fault.Denied,
		op,
		fmt.Sprintf("the %s %s is not a member of this cluster any more", c.Kind, c.Name),
		"join again with a new token: tsh token create",
	)
	if fault.Is(err, fault.NotFound) || err == nil && m.Value.Kind != c.Kind {
		return Admitted{}, gone
	}
	if err != nil {
		return Admitted{}, err
	}
	a, err := readKeys(authrpc.JoinRequest{SSHKey: m.Value.SSHKey, X509Key: m.Value.X509Key})
	if err != nil {
		return Admitted{}, fmt.Errorf("read the keys on record: %w", err)
	}
	if on, ok := a.service.(*ecdsa.PublicKey); !ok || !on.Equal(c.Key) {
		return Admitted{}, gone
	}
	a.machine, a.renewal = m.Value, true
	return a, nil
}

// VerifyForwarded believes the introduction of a proxy on record, and returns the proxy's name.
func (d *Service) VerifyForwarded(ctx context.Context, i authrpc.ForwardedFrom) (string, error) {
	m, err := d.cfg.State.Machine(ctx, i.ProxyID)
	if err != nil {
		return "", err
	}
	key, err := x509.ParsePKIXPublicKey(m.Value.X509Key)
	if err != nil || m.Value.Kind != identity.Proxy || !i.Verify(key) {
		return "", fault.New(
			fault.Denied,
			"join.Introduced",
			"no proxy on record introduces this connection",
			"connect by way of a proxy of this cluster",
		)
	}
	return m.Value.Name, nil
}

// Renew is Recognise for a machine that asks for new certificates: its clock must be right.
func (d *Service) Renew(ctx context.Context, c authrpc.Caller, r authrpc.RenewRequest) (Admitted, error) {
	a, err := d.VerifyMember(ctx, c)
	if err != nil {
		return Admitted{}, err
	}
	return a, checkClock(r.Time, d.cfg.Now())
}
