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
	// HeadlessLife is the longest life of the certificates that a headless login earns.
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
// factor.
type headlessHandle struct {
	Challenge string     `json:"c"`
	From      netip.Addr `json:"f"` // the machine that requested it
	Code      string     `json:"k"` // shown in the terminal and in the browser, for the user to compare
	Expires   time.Time  `json:"e"`
}

func (h *headlessHandle) expiresAt() time.Time { return h.Expires }

// network is the network to which the certificates of the login are pinned.
func (h *headlessHandle) network() netip.Prefix { return limit.Network(h.From.String()) }

// prompt is what the browser shows to the user who is asked to approve.
func (h *headlessHandle) prompt() *authrpc.Headless {
	return &authrpc.Headless{From: h.From.String(), Code: h.Code, Expires: h.Expires}
}

// BeginHeadless returns a sealed handle for the machine that calls. It stores nothing.
func (s *Service) BeginHeadless(
	by authrpc.Caller, req authrpc.BeginHeadlessRequest,
) (authrpc.BeginHeadlessResponse, error) {
	res, err := s.beginHeadless(by.Addr, req)
	if err != nil {
		s.refusals.record(headless, by.Identity, addrString(by.Addr), err)
	}
	return res, err
}

// beginHeadless does the work of BeginHeadless. The handle carries the caller's address, to which the
// certificates will be pinned.
func (s *Service) beginHeadless(
	from net.Addr, req authrpc.BeginHeadlessRequest,
) (res authrpc.BeginHeadlessResponse, err error) {
	if !challengeRE.MatchString(req.Challenge) {
		return res, fault.New(fault.Invalid, opHeadless, "the challenge is malformed",
			"update tsh, then start again: tsh login --headless")
	}
	at, err := netip.ParseAddrPort(addrString(from))
	if err != nil {
		return res, fault.Wrap(err, fault.Internal, opHeadless, "the address of this machine is not known",
			"log in with a browser: tsh login")
	}
	h := headlessHandle{
		Challenge: req.Challenge,
		From:      at.Addr().Unmap().WithZone(""),
		Code:      newDisplayCode(),
		Expires:   s.cfg.Now().Add(AttemptLife).UTC().Truncate(time.Second),
	}
	res = authrpc.BeginHeadlessResponse{
		Code:         h.Code,
		From:         h.From.String(),
		Expires:      h.Expires,
		PollInterval: headlessEvery,
	}
	res.Handle, err = s.sealer.seal(opHeadless, stageHeadless, h)
	return res, err
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// newDisplayCode draws a display code, such as BCDF-GHJK. It rejects bytes beyond the largest multiple of the
// number of letters: with them the first letters would be more frequent.
func newDisplayCode() string {
	const letters = len(codeLetters)
	var out []byte
	for len(out) < 2*codeGroup+1 {
		if len(out) == codeGroup {
			out = append(out, '-')
		}
		var b [1]byte
		_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
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

// storeHeadless stores a login that a user has approved. If several users have the link, the first one to
// approve wins.
func (s *Service) storeHeadless(
	ctx context.Context, h *headlessHandle, p state.PendingLogin, e audit.Event,
) error {
	hash := headlessHash(h.Challenge)
	err := s.cfg.Logins.AddLogin(ctx, hash, p, e)
	if !fault.Is(err, fault.Conflict) {
		return err
	}
	if _, err := s.cfg.Logins.PendingLogin(ctx, hash); err == nil {
		return fault.New(fault.Expired, opHeadless, "this login was approved already",
			"start again: tsh login --headless")
	}
	return err
}

// RedeemHeadless redeems a headless login that a user has approved. While nobody has, approved is false.
func (s *Service) RedeemHeadless(
	ctx context.Context, by authrpc.Caller, req authrpc.RedeemHeadlessRequest,
) (a Assured, approved bool, err error) {
	a, approved, err = s.redeemHeadless(ctx, by.Addr, req)
	if err != nil {
		s.refusals.record(headless, by.Identity, addrString(by.Addr), err)
	}
	return a, approved, err
}

// redeemHeadless does the work of RedeemHeadless. The caller must come from the network that requested the
// login.
func (s *Service) redeemHeadless(
	ctx context.Context, from net.Addr, req authrpc.RedeemHeadlessRequest,
) (a Assured, approved bool, err error) {
	keys, err := parseKeys(req.Keys)
	if err != nil {
		return Assured{}, false, err
	}
	var h headlessHandle
	if err := s.sealer.open(opHeadless, stageHeadless, req.Handle, s.cfg.Now(), &h); err != nil {
		return Assured{}, false, err
	}
	pinned := identity.Identity{SourceAddresses: []netip.Prefix{h.network()}}
	if err := pinned.CheckSourceAddress(from); err != nil {
		return Assured{}, false, fault.Wrap(err, fault.Denied, opHeadless,
			"this login was requested from another address: "+h.From.String(),
			"start again: tsh login --headless")
	}
	l, err := s.cfg.Logins.PendingLogin(ctx, headlessHash(h.Challenge))
	if fault.Is(err, fault.NotFound) {
		// Nobody else learns that the login is not approved yet.
		return Assured{}, false, checkChallenge(h.Challenge, req.Keys)
	}
	if err != nil {
		return Assured{}, false, err
	}
	a, err = s.redeemPending(ctx, l, keys, req.Keys)
	return a, err == nil, err
}
