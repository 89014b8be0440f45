package oidc

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"unicode"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	opStart    = "oidc.Start"
	opFinish   = "oidc.Finish"
	startAgain = "start again: tsh login"
)

// Bounds of what a browser brings back, in bytes.
const (
	maxState = 128
	maxCode  = 4 << 10
	maxError = 1 << 10
)

// Flow is what must be remembered of one flow, out of the browser's reach: State, Nonce and Verifier are
// secrets.
type Flow struct {
	Connector string `json:"connector"`
	Redirect  string `json:"redirect"` // where the provider sends the browser back to
	State     string `json:"state"`
	Nonce     string `json:"nonce"`
	Verifier  string `json:"verifier"` // PKCE
}

// CallbackParams is what the provider sent the browser back with. All of it is a stranger's word.
type CallbackParams struct {
	State            string
	Code             string
	Issuer           string // RFC 9207
	Error            string // RFC 6749 section 4.1.2.1
	ErrorDescription string
}

// Start begins a flow and returns the provider's page to send the browser to. A locale that is not empty asks
// for that page in a language.
func (p *Providers) Start(ctx context.Context, connector, redirect, locale string) (Flow, string, error) {
	prov, err := p.provider(ctx, connector)
	if err != nil {
		return Flow{}, "", err
	}
	meta, err := prov.discover(ctx)
	if err != nil {
		return Flow{}, "", err
	}
	f := Flow{
		Connector: connector,
		Redirect:  redirect,
		State:     rand.Text(),
		Nonce:     rand.Text(),
		Verifier:  oauth2.GenerateVerifier(),
	}
	cfg := prov.oauth(meta, redirect)
	options := []oauth2.AuthCodeOption{gooidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)}
	if locale != "" {
		options = append(
			options,
			oauth2.SetAuthURLParam("ui_locales", locale),
		) // OpenID Connect Core 1.0 section 3.1.2.1
	}
	return f, cfg.AuthCodeURL(f.State, options...), nil
}

func (p *provider) oauth(meta *metadata, redirect string) *oauth2.Config {
	return &oauth2.Config{
		ClientID:     p.spec.ClientID,
		ClientSecret: p.spec.ClientSecret,
		Endpoint:     meta.endpoint,
		RedirectURL:  redirect,
		Scopes:       p.spec.scopes(),
	}
}

// Finish ends a flow: it turns what the browser came back with into who the provider says this is.
func (p *Providers) Finish(ctx context.Context, f Flow, r CallbackParams) (VerifiedUser, error) {
	if err := r.check(f); err != nil {
		return VerifiedUser{}, err
	}
	prov, err := p.provider(ctx, f.Connector)
	if err != nil {
		return VerifiedUser{}, err
	}
	meta, err := prov.discover(ctx)
	if err != nil {
		return VerifiedUser{}, err
	}
	if r.Issuer != prov.spec.Issuer && (r.Issuer != "" || meta.sendsIss) {
		return VerifiedUser{}, errIssuerMismatch()
	}
	if r.Error != "" {
		return VerifiedUser{}, prov.providerError(r)
	}
	select {
	case p.exchanges <- struct{}{}:
		defer func() { <-p.exchanges }()
	case <-ctx.Done():
		return VerifiedUser{}, fault.Wrap(
			ctx.Err(),
			fault.Unavailable,
			opFinish,
			"too many logins are in progress",
			"try again in a minute",
		)
	}
	token, err := prov.exchange(ctx, meta, f, r.Code)
	if err != nil {
		return VerifiedUser{}, err
	}
	claims, err := prov.verify(ctx, meta, f, token)
	if err != nil {
		return VerifiedUser{}, err
	}
	return prov.mapClaims(claims)
}

// check refuses a return that belongs to another browser's flow, before anything in it is believed.
func (r CallbackParams) check(f Flow) error {
	if len(r.State) > maxState || len(r.Code) > maxCode || len(r.Issuer) > maxURL ||
		len(r.Error) > maxError ||
		len(r.ErrorDescription) > maxError {
		return fault.New(fault.Invalid, opFinish, "the identity provider's response is too large", startAgain)
	}
	if f.State == "" || subtle.ConstantTimeCompare([]byte(r.State), []byte(f.State)) != 1 {
		return fault.New(
			fault.Invalid,
			opFinish,
			"the response of the identity provider does not belong to this login",
			startAgain+", and finish it in the same browser",
		)
	}
	if r.Code == "" && r.Error == "" {
		return fault.New(
			fault.Invalid,
			opFinish,
			"the identity provider sent neither a code nor an error",
			startAgain,
		)
	}
	return nil
}

func errIssuerMismatch() error {
	return fault.New(
		fault.Invalid,
		opFinish,
		"the response comes from another identity provider than the one that was asked",
		startAgain,
	)
}

// providerError tells of the provider's error page in our words; its own are quoted, for they may say
// anything.
func (p *provider) providerError(r CallbackParams) error {
	said := "the identity provider " + p.display() + " refused the login: " + printable(r.Error)
	if d := printable(r.ErrorDescription); d != "" {
		said += fmt.Sprintf(" (it says %q)", d)
	}
	switch r.Error {
	case "access_denied":
		return fault.New(
			fault.Denied,
			opFinish,
			said,
			"start again: tsh login, and give consent on the provider's page; if this repeats, ask an administrator for access there",
		)
	case "server_error", "temporarily_unavailable":
		return fault.New(fault.Unavailable, opFinish, said, "try again in a minute: tsh login")
	case "unauthorized_client", "invalid_request", "invalid_scope", "unsupported_response_type":
		return fault.New(
			fault.Unavailable,
			opFinish,
			said,
			"ask an administrator to correct connector "+p.name,
		)
	}
	return fault.New(fault.Denied, opFinish, said, startAgain)
}

// printable keeps at most 200 bytes that can be shown in a page or a log.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "")
	}
	return s
}

// exchange spends the code for a token.
func (p *provider) exchange(ctx context.Context, meta *metadata, f Flow, code string) (*oauth2.Token, error) {
	ctx = gooidc.ClientContext(ctx, p.client)
	token, err := p.oauth(meta, f.Redirect).Exchange(ctx, code, oauth2.VerifierOption(f.Verifier))
	var said *oauth2.RetrieveError
	switch {
	case err == nil:
		return token, nil
	case !errors.As(err, &said):
		return nil, p.unreachable(err)
	case said.ErrorCode == "invalid_grant":
		return nil, fault.Wrap(
			err,
			fault.Invalid,
			opFinish,
			"the identity provider does not know this code: it was used already, has expired, or belongs to another login",
			startAgain,
		)
	case said.ErrorCode == "invalid_client" || said.ErrorCode == "unauthorized_client":
		return nil, p.misconfigured(err, "it does not accept this cluster's client id and secret")
	}
	return nil, p.unreachable(err)
}
