package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"net"
	"net/netip"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/limit"
)

const opHeadless = "login.Headless"

const (
	// HeadlessLife is the longest life of the certificates that are issued from a headless login.
	HeadlessLife = time.Hour
	// headlessEvery is how often a waiting tsh asks whether its login is approved.
	headlessEvery = 2 * time.Second
	// A display code is two groups of codeGroup letters. The letters are no vowels, so that codes form no
	// words, and are not mistaken for digits: RFC 8628 section 6.1.
	codeLetters = "BCDFGHJKLMNPQRSTVWXZ"
	codeGroup   = 4
)

// headlessHandle is a login that was requested on a machine without a browser. It is sealed into the link
// that a user opens on another machine. Nothing of it is stored before that user has proved the second
// factor. The JSON keys are short because the link is.
type headlessHandle struct {
	format
	Challenge string     `json:"c"`           // commits to tsh's verifier and keys: authrpc.Challenge
	Host      string     `json:"n,omitempty"` // what the machine that requested it calls itself
	From      netip.Addr `json:"f"`           // the machine's address
	Code      string     `json:"k"`           // terminal and browser show it, to be compared
	Expires   time.Time  `json:"e"`
}

func (h *headlessHandle) expiresAt() time.Time { return h.Expires }

// network returns the network of From. Only from there may tsh redeem the login and use its certificates.
func (h *headlessHandle) network() netip.Prefix { return limit.NetworkOf(h.From) }

// prompt returns what the browser shows to the user who is asked to approve.
func (h *headlessHandle) prompt() *authrpc.Headless {
	return &authrpc.Headless{Host: h.Host, From: h.From.String(), Code: h.Code, Expires: h.Expires}
}

// host returns the machine that requested the login.
func (h *headlessHandle) host() state.ClientHost {
	return state.ClientHost{Name: h.Host, Code: h.Code, Addr: h.From}
}

// BeginHeadless returns a sealed handle for a machine without a browser, and the display code that its user
// compares. Anyone who can reach a proxy may call it; it stores nothing. A malformed challenge gets fault
// Invalid.
func (s *Service) BeginHeadless(
	by authrpc.Caller, req authrpc.BeginHeadlessRequest,
) (authrpc.BeginHeadlessResponse, error) {
	res, err := s.beginHeadless(by.Addr, req)
	if err != nil {
		s.refusals.record(stepHeadless, by.Identity, addrString(by.Addr), err)
	}
	return res, err
}

// beginHeadless does the work of BeginHeadless, which records the error. The handle contains the caller's
// address, because the certificates will be valid only in its network.
func (s *Service) beginHeadless(
	from net.Addr, req authrpc.BeginHeadlessRequest,
) (res authrpc.BeginHeadlessResponse, err error) {
	if !challengeRE.MatchString(req.Challenge) {
		return res, headlessChallengeMalformed.New(opHeadless)
	}
	if req.Host != "" && !authrpc.ValidHostName(req.Host) {
		return res, headlessHostMalformed.New(opHeadless)
	}
	addrPort, err := netip.ParseAddrPort(addrString(from))
	if err != nil {
		return res, machineAddressUnknown.Wrap(err, opHeadless)
	}
	handle := headlessHandle{
		format:    currentFormat,
		Challenge: req.Challenge,
		Host:      req.Host,
		From:      addrPort.Addr().Unmap().WithZone(""), // one form for one address, whichever socket saw it
		Code:      newDisplayCode(),
		Expires:   s.cfg.Now().Add(AttemptLife).UTC().Truncate(time.Second),
	}
	res = authrpc.BeginHeadlessResponse{
		Code:         handle.Code,
		From:         handle.From.String(),
		Expires:      handle.Expires,
		PollInterval: headlessEvery,
	}
	res.Handle, err = s.sealer.seal(opHeadless, stageHeadless, handle)
	return res, err
}

// addrString returns the address as text, and "" for nil: the address is not known.
func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// newDisplayCode draws a display code, such as BCDF-GHJK.
func newDisplayCode() string {
	const letters = len(codeLetters)
	var out []byte
	for len(out) < 2*codeGroup+1 {
		if len(out) == codeGroup {
			out = append(out, '-')
		}
		var b [1]byte
		_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
		// 256 is no multiple of the number of letters. Bytes beyond the largest multiple are drawn again:
		// with them the first letters would be more frequent.
		if n := int(b[0]); n < letters*(256/letters) {
			out = append(out, codeLetters[n%letters])
		}
	}
	return string(out)
}

// headlessHash is the hash under which an approved headless login is stored. Unlike a one-time code the
// challenge is no secret: to redeem the login, a client must know the verifier and keys behind it.
func headlessHash(challenge string) state.CodeHash {
	return sha256.Sum256([]byte("threshold headless login v1\x00" + challenge))
}

// storeHeadless stores a login that a user has approved, with its audit event. Whoever has the link can
// approve it, and the first one wins: once a login is stored under the handle, later ones get fault Expired.
// A conflict without such a login, over the user's record, stays fault Conflict.
func (s *Service) storeHeadless(
	ctx context.Context, attempt identifiedAttempt, pending state.PendingLogin, succeeded audit.Event,
) error {
	hash := headlessHash(attempt.Client.Headless.Challenge)
	err := s.cfg.Logins.AddLogin(ctx, hash, pending, attempt.stored, succeeded)
	if !fault.Is(err, fault.Conflict) {
		return err
	}
	if _, readErr := s.cfg.Logins.PendingLogin(ctx, hash); readErr == nil {
		return headlessLoginApproved.New(opHeadless)
	}
	return err
}

// RedeemHeadless returns Assured for a headless login that a user has approved; Assured.Commit uses it up.
// While nobody has approved it, approved is false and err is nil: the caller asks again later. After it was
// redeemed the answer is the same, because nothing is stored any more. Only the client that requested the
// login may call, from the network in which it did: others get fault Denied. A handle or a login that has
// expired gets fault Expired.
func (s *Service) RedeemHeadless(
	ctx context.Context, by authrpc.Caller, req authrpc.RedeemHeadlessRequest,
) (a Assured, approved bool, err error) {
	a, approved, err = s.redeemHeadless(ctx, by.Addr, req)
	if err != nil {
		s.refusals.record(stepHeadless, by.Identity, addrString(by.Addr), err)
	}
	return a, approved, err
}

// redeemHeadless does the work of RedeemHeadless, which records the error.
func (s *Service) redeemHeadless(
	ctx context.Context, from net.Addr, req authrpc.RedeemHeadlessRequest,
) (a Assured, approved bool, err error) {
	keys, err := parseKeys(req.Keys)
	if err != nil {
		return Assured{}, false, err
	}
	var handle headlessHandle
	if err := s.sealer.open(opHeadless, stageHeadless, req.Handle, s.cfg.Now(), &handle); err != nil {
		return Assured{}, false, err
	}
	// The check of certificates decides here too: who may not use the certificates does not get them.
	pinned := identity.Identity{SourceAddresses: []netip.Prefix{handle.network()}}
	if err := pinned.CheckSourceAddress(from); err != nil {
		return Assured{}, false, headlessAddressChanged.Wrap(err, opHeadless, fault.Args{
			"address": handle.From.String(),
		})
	}
	pending, err := s.cfg.Logins.PendingLogin(ctx, headlessHash(handle.Challenge))
	if fault.Is(err, fault.NotFound) {
		// Not approved yet, or redeemed already. Only the client that requested the login may learn that:
		// others get fault Denied.
		return Assured{}, false, checkChallenge(handle.Challenge, req.Keys)
	}
	if err != nil {
		return Assured{}, false, err
	}
	a, err = s.redeemPending(ctx, pending, keys, req.Keys)
	return a, err == nil, err
}
