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

// Flow is what must be remembered between Start and Finish, where the browser cannot read it: State, Nonce
// and Verifier are secrets.
type Flow struct {
	Connector string `json:"connector"`
	Redirect  string `json:"redirect"` // the redirect URI, to which the provider sends the browser back
	State     string `json:"state"`
	Nonce     string `json:"nonce"`
	Verifier  string `json:"verifier"` // PKCE
}

// CallbackParams are the parameters with which the provider sent the browser back. Nothing in them is trusted
// before Finish has checked it.
type CallbackParams struct {
	State            string
	Code             string
	Issuer           string // RFC 9207
	Error            string // RFC 6749 section 4.1.2.1
	ErrorDescription string
}

// Start begins a flow. It returns the Flow to keep until Finish, and the address of the provider's page to
// send the browser to. redirect is the URI to which the provider sends it back; locale asks for the page in a
// language and may be empty. An unknown connector gets fault NotFound, a provider that cannot be reached or
// used fault Unavailable.
func (p *Providers) Start(
	ctx context.Context, connector, redirect, locale string,
) (flow Flow, page string, err error) {
	prov, err := p.currentProvider(ctx, connector)
	if err != nil {
		return Flow{}, "", err
	}
	meta, err := prov.currentMetadata(ctx)
	if err != nil {
		return Flow{}, "", err
	}
	flow = Flow{
		Connector: connector,
		Redirect:  redirect,
		State:     rand.Text(),
		Nonce:     rand.Text(),
		Verifier:  oauth2.GenerateVerifier(),
	}
	options := []oauth2.AuthCodeOption{gooidc.Nonce(flow.Nonce), oauth2.S256ChallengeOption(flow.Verifier)}
	if locale != "" { // OpenID Connect Core 1.0 section 3.1.2.1
		options = append(options, oauth2.SetAuthURLParam("ui_locales", locale))
	}
	return flow, prov.oauthConfig(meta, redirect).AuthCodeURL(flow.State, options...), nil
}

// oauthConfig returns what golang.org/x/oauth2 needs to know for one flow.
func (p *provider) oauthConfig(meta *metadata, redirect string) *oauth2.Config {
	return &oauth2.Config{
		ClientID:     p.spec.ClientID,
		ClientSecret: p.spec.ClientSecret,
		Endpoint:     meta.endpoint,
		RedirectURL:  redirect,
		Scopes:       p.spec.scopes(),
	}
}

// Finish ends the flow with the parameters of its callback: it checks the callback, exchanges the code for an
// ID token, verifies the token, and returns the user that it names. It does not remember used codes: the
// provider accepts each only once.
//
// A callback or token that is not for this flow gets fault Invalid, a user whom the provider refuses Denied,
// and a provider that cannot be reached or used Unavailable.
func (p *Providers) Finish(ctx context.Context, flow Flow, callback CallbackParams) (VerifiedUser, error) {
	if err := callback.checkBelongsTo(flow); err != nil {
		return VerifiedUser{}, err
	}
	prov, err := p.currentProvider(ctx, flow.Connector)
	if err != nil {
		return VerifiedUser{}, err
	}
	meta, err := prov.currentMetadata(ctx)
	if err != nil {
		return VerifiedUser{}, err
	}
	// Before the code is sent anywhere: in a mix-up attack it comes from another provider than the one to
	// which it would be sent (RFC 9207). A provider that does not announce an issuer may leave it out.
	leftOut := callback.Issuer == "" && !meta.sendsIssuer
	if !leftOut && callback.Issuer != prov.spec.Issuer {
		return VerifiedUser{}, issuerMismatchFault()
	}
	if callback.Error != "" {
		return VerifiedUser{}, prov.errorResponseFault(callback)
	}
	select {
	case p.exchanges <- struct{}{}:
		defer func() { <-p.exchanges }()
	case <-ctx.Done():
		return VerifiedUser{}, loginsTooMany.Wrap(ctx.Err(), opFinish)
	}
	tokens, err := prov.exchangeCode(ctx, meta, flow, callback.Code)
	if err != nil {
		return VerifiedUser{}, err
	}
	verified, err := prov.verifyIDToken(ctx, meta, flow, tokens)
	if err != nil {
		return VerifiedUser{}, err
	}
	return prov.mapClaims(verified)
}

// checkBelongsTo refuses a callback that belongs to another browser's flow than this one, with fault Invalid.
// The caller checks this before it uses anything in the callback.
func (callback CallbackParams) checkBelongsTo(flow Flow) error {
	if len(callback.State) > maxState || len(callback.Code) > maxCode || len(callback.Issuer) > maxURL ||
		len(callback.Error) > maxError || len(callback.ErrorDescription) > maxError {
		return callbackTooLarge.New(opFinish)
	}
	if flow.State == "" || subtle.ConstantTimeCompare([]byte(callback.State), []byte(flow.State)) != 1 {
		return callbackOfOtherLogin.New(opFinish)
	}
	if callback.Code == "" && callback.Error == "" {
		return callbackEmpty.New(opFinish)
	}
	return nil
}

// issuerMismatchFault is the error for a mix-up attack (RFC 9207): another provider sent the browser back.
func issuerMismatchFault() error {
	return callbackIssuerWrong.New(opFinish)
}

// errorResponseFault is the error for an error response of the provider (RFC 6749 section 4.1.2.1). Its kind
// and remedy follow from the code: Denied is for the user, Unavailable for an administrator or for another
// try. It contains the provider's own description in quotes, because that may say anything.
func (p *provider) errorResponseFault(callback CallbackParams) error {
	why := printable(callback.Error)
	if description := printable(callback.ErrorDescription); description != "" {
		why += fmt.Sprintf(" (it says %q)", description)
	}
	switch callback.Error {
	case "access_denied":
		return providerDeniedAccess.New(opFinish, fault.Args{"provider": p.display(), "why": why})
	case "server_error", "temporarily_unavailable":
		return providerFailed.New(opFinish, fault.Args{"provider": p.display(), "why": why})
	case "unauthorized_client", "invalid_request", "invalid_scope", "unsupported_response_type":
		return providerRefusedClient.New(opFinish, fault.Args{
			"provider":  p.display(),
			"why":       why,
			"connector": p.name,
		})
	}
	return providerRefusedLogin.New(opFinish, fault.Args{"provider": p.display(), "why": why})
}

// maxPrintable bounds what printable returns, in bytes.
const maxPrintable = 200

// printable makes a provider's text safe for pages and logs: it drops control characters and shortens the
// rest to maxPrintable bytes.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
	if len(s) > maxPrintable {
		s = strings.ToValidUTF8(s[:maxPrintable], "")
	}
	return s
}

// exchangeCode sends the code, the PKCE verifier and the client secret to the token endpoint, and returns the
// tokens that it gets. A code that the provider does not know gets fault Invalid. Everything else is a
// problem of the provider or the connector: fault Unavailable.
func (p *provider) exchangeCode(
	ctx context.Context, meta *metadata, flow Flow, code string,
) (*oauth2.Token, error) {
	ctx = gooidc.ClientContext(ctx, p.client)
	config := p.oauthConfig(meta, flow.Redirect)
	tokens, err := config.Exchange(ctx, code, oauth2.VerifierOption(flow.Verifier))
	if err == nil {
		return tokens, nil
	}
	var response *oauth2.RetrieveError
	if !errors.As(err, &response) {
		return nil, p.unreachableFault(err)
	}
	switch response.ErrorCode { // RFC 6749 section 5.2
	case "invalid_grant":
		return nil, callbackCodeUnknown.Wrap(err, opFinish)
	case "invalid_client", "unauthorized_client":
		return nil, p.misconfiguredFault(err, "it does not accept this cluster's client id and secret")
	}
	return nil, p.unreachableFault(err)
}
