package web

import (
	"cmp"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

const (
	factorPath = "/login/factor"
	// maxCodeBytes bounds what is typed as a code: six digits, or a recovery code with its dashes.
	maxCodeBytes = 64
	// maxParamBytes bounds a parameter of the login address.
	maxParamBytes = 2 << 10
	// remedyLogin is the remedy when a login cannot continue.
	remedyLogin = "run: tsh login"
)

// login serves the address that tsh opens in the browser. It redirects to the provider, or lets the user
// choose one.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	if !s.checkParams(w, r) {
		return
	}
	query := r.URL.Query()
	if query.Get("challenge") == "" {
		s.fail(w, r, startInTerminalFault())
		return
	}
	s.startLogin(w, r, authrpc.BeginLoginRequest{
		Challenge: query.Get("challenge"),
		Callback:  query.Get("callback"),
		State:     query.Get("state"),
		Host:      query.Get("host"),
	})
}

func startInTerminalFault() error {
	return loginNotFromTerminal.New("web.login")
}

// checkParams reports whether no parameter of the address is repeated or too long. If it reports false, it
// has answered with an error page.
func (s *Server) checkParams(w http.ResponseWriter, r *http.Request) bool {
	for _, values := range r.URL.Query() {
		if len(values) != 1 || len(values[0]) > maxParamBytes {
			s.fail(w, r, loginAddressInvalid.New("web.login"))
			return false
		}
	}
	return true
}

// startLogin asks the auth service to begin the login that req describes, and answers with one of four
// things: an error page, the question whether the user started this headless login, the choice among several
// providers, or, once the login has begun, a redirect to the provider. The two questions lead back here, with
// the answer in the address. The cookies of an earlier login in this browser are replaced only when the new
// login has begun.
func (s *Server) startLogin(w http.ResponseWriter, r *http.Request, req authrpc.BeginLoginRequest) {
	query := r.URL.Query()
	req.Connector = query.Get("connector")
	req.PublicOrigin = s.origins[normalHost(r.Host)]
	req.From = clientHost(r)
	req.Locale = s.chosenLanguage(w, r)
	res, err := callAuth(r.Context(), s, authrpc.BeginLogin, req)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if res.Headless != nil {
		s.confirmHeadless(w, r, req.Handle, *res.Headless)
		return
	}
	if len(res.Connectors) > 0 {
		view := chooseView{Choices: choices(r.URL.Path, query, res.Connectors)}
		s.render(w, r, http.StatusOK, "choose", view)
		return
	}
	// The auth service is trusted, but a mistake there must not send browsers to just any address.
	if !validProviderURL(res.Redirect) || res.Attempt == "" {
		s.fail(w, r, errors.New("the auth service sent no valid provider URL or no attempt"))
		return
	}
	dropCookies(w, confirmCookie)
	setCookie(w, attemptCookie, res.Attempt)
	redirect(w, res.Redirect)
}

// redirect sends a redirect without a body. http.Redirect would write the address into the body, and the
// address may contain a one-time code.
func redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// choice is a provider on the page that offers several.
type choice struct{ Display, Link string }

// choices returns the providers, with links that repeat the request with a provider.
func choices(path string, q url.Values, list []authrpc.Connector) []choice {
	var out []choice
	for _, c := range list {
		q.Set("connector", c.Name)
		display := c.DisplayName
		if display == "" {
			display = c.Name
		}
		out = append(out, choice{display, path + "?" + q.Encode()})
	}
	return out
}

// callback serves the address to which the provider sends the browser back. It passes the provider's answer
// to the auth service, keeps the identified attempt in the cookie, and redirects to the factor page. Without
// the redirect, reloading the page would send the provider's code a second time.
func (s *Server) callback(w http.ResponseWriter, r *http.Request) {
	attempt, ok := readCookie(r, attemptCookie)
	if !ok {
		s.fail(w, r, noLoginFault())
		return
	}
	query := r.URL.Query()
	res, err := callAuth(r.Context(), s, authrpc.FinishOIDC, authrpc.FinishOIDCRequest{
		Attempt:          attempt,
		Connector:        r.PathValue("connector"),
		State:            query.Get("state"),
		Code:             query.Get("code"),
		Issuer:           query.Get("iss"),
		Error:            query.Get("error"),
		ErrorDescription: query.Get("error_description"),
		From:             clientHost(r),
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	setCookie(w, attemptCookie, res.Attempt)
	redirect(w, factorPath)
}

func noLoginFault() error {
	return loginNotInProgress.New("web.login")
}

// showFactor serves the factor page of the login in this browser.
func (s *Server) showFactor(w http.ResponseWriter, r *http.Request) {
	attempt, ok := readCookie(r, attemptCookie)
	if !ok {
		s.fail(w, r, noLoginFault())
		return
	}
	s.renderFactor(w, r, http.StatusOK, attempt, nil /* no code was refused */)
}

// renderFactor answers with the factor page, as the auth service describes it: the form for a code, and for
// an enrolment also the secret and its QR code. refused is the error of the last code, which the page shows;
// nil means that there was none.
func (s *Server) renderFactor(
	w http.ResponseWriter, r *http.Request, status int, attempt string, refused error,
) {
	shown, err := callAuth(r.Context(), s, authrpc.ShowFactor, authrpc.ShowFactorRequest{
		Attempt: attempt,
		From:    clientHost(r),
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	challenge, err := knownChallenge(shown.Challenges)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	view := factorView{
		Name:     shown.Name,
		Login:    attemptTag(attempt),
		Kind:     challenge.Kind,
		Recovery: !challenge.Enrol && r.FormValue("with") == "recovery",
		For:      shown.Headless,
	}
	if challenge.Enrol {
		if view.Image, view.Secret, err = enrolmentView(challenge); err != nil {
			s.fail(w, r, err)
			return
		}
	}
	if refused != nil {
		view.Error = s.codeErrorView(r, refused)
	}
	s.render(w, r, status, "factor", view)
}

// knownChallenge returns the first challenge for whose kind there is a form. There is one for TOTP. A newer
// auth service may offer others beside it.
func knownChallenge(offered []authrpc.FactorChallenge) (authrpc.FactorChallenge, error) {
	var kinds []string
	for _, c := range offered {
		if c.Kind == authrpc.TOTP {
			return c, nil
		}
		kinds = append(kinds, c.Kind)
	}
	return authrpc.FactorChallenge{}, secondFactorNoForm.New("web.factor", fault.Args{
		"kinds": strings.Join(kinds, ", "),
	})
}

// enrolmentView returns the secret of a new authenticator app as the page shows it, as a QR code and as text.
func enrolmentView(c authrpc.FactorChallenge) (template.URL, string, error) {
	var enrolment authrpc.TOTPEnrolment
	if err := json.Unmarshal(c.Body, &enrolment); err != nil {
		return "", "", err
	}
	image, err := qrImage(enrolment.URI)
	return image, groupInFours(enrolment.Secret), err
}

// proveFactor serves the form of the factor page: it passes the code to the auth service. After a right code
// the login is finished; a headless one ends on a page of ours, because its tsh waits on another machine.
// After a refused code it shows the form again, with the reason. It shows the error page for a fault that
// another code would not change: the attempt has expired, or the error is internal.
func (s *Server) proveFactor(w http.ResponseWriter, r *http.Request) {
	attempt, ok := readCookie(r, attemptCookie)
	if !ok {
		s.fail(w, r, noLoginFault())
		return
	}
	if err := r.ParseForm(); err != nil {
		s.fail(w, r, formUnreadable.Wrap(err, "web.factor"))
		return
	}
	// A second login in the same browser, perhaps one that another site has opened, replaces the cookie of
	// the first. A code from the page of the first must not be used for the second. A form without the field
	// is from a program and not from our page. That is safe: sameOrigin and net/http have refused forms from
	// other sites.
	if tag := r.PostFormValue("attempt"); tag != "" && tag != attemptTag(attempt) {
		s.fail(w, r, loginPageOfOtherLogin.New("web.factor"))
		return
	}
	code := strings.TrimSpace(r.PostFormValue("code"))
	if code == "" || len(code) > maxCodeBytes {
		err := secondFactorEmpty.New("web.factor")
		s.renderFactor(w, r, authrpc.Status(fault.Invalid), attempt, err)
		return
	}
	body, err := json.Marshal(code)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	res, err := callAuth(r.Context(), s, authrpc.ProveFactor, authrpc.ProveFactorRequest{
		Attempt: attempt,
		Response: authrpc.FactorResponse{
			Kind: cmp.Or(r.PostFormValue("kind"), authrpc.TOTP),
			Body: body,
		},
		From: clientHost(r),
	})
	switch kind := fault.KindOf(err); {
	case kind == fault.Expired, kind == fault.Internal:
		s.fail(w, r, err)
	case err != nil:
		s.renderFactor(w, r, authrpc.Status(kind), attempt, err)
	case res.Headless != nil:
		dropCookies(w, attemptCookie)
		view := approvedView{Name: res.Name, Codes: res.RecoveryCodes, From: res.Headless.From}
		s.render(w, r, http.StatusOK, "approved", view)
	default:
		s.finish(w, r, res)
	}
}

// finish ends a login whose factor was accepted: it drops the cookie and redirects the browser to tsh with
// the one-time code in the address. It shows a page with a link instead if there are recovery codes, which
// are shown at no other time, or if tsh listens on [::1], to which contentSecurityPolicy allows no redirect.
func (s *Server) finish(w http.ResponseWriter, r *http.Request, res authrpc.ProveFactorResponse) {
	callback, err := parseLoopback(res.Redirect)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	dropCookies(w, attemptCookie)
	next := inChosenLanguage(r, callback)
	mayRedirect := callback.Hostname() == "127.0.0.1"
	if len(res.RecoveryCodes) > 0 || !mayRedirect {
		view := doneView{Name: res.Name, Codes: res.RecoveryCodes, Next: next}
		s.render(w, r, http.StatusOK, "done", view)
		return
	}
	redirect(w, next)
}

// inChosenLanguage returns the callback address of tsh with the language that the user chose on our pages, if
// any, as a parameter. tsh serves the last page of a login, and the browser does not send it our cookie.
func inChosenLanguage(r *http.Request, callback *url.URL) string {
	tag, ok := readCookie(r, languageCookie)
	if !ok || !supported(tag) {
		return callback.String()
	}
	q := callback.Query()
	q.Set("lang", tag)
	out := *callback
	out.RawQuery = q.Encode()
	return out.String()
}

// parseLoopback parses the callback address of tsh. It accepts only http:// with a loopback address: the
// one-time code in the address must not leave the user's machine (RFC 8252 section 7.3).
func parseLoopback(addr string) (*url.URL, error) {
	u, err := url.Parse(addr)
	if err != nil {
		return nil, errors.New("the auth service sent a callback that is no URL")
	}
	a, err := netip.ParseAddr(u.Hostname())
	if u.Scheme != "http" || u.User != nil || err != nil || !a.IsLoopback() {
		return nil, errors.New("the auth service sent a callback that is not on loopback")
	}
	return u, nil
}

// validProviderURL accepts https, and http on loopback, where demos and tests have their provider.
func validProviderURL(addr string) bool {
	u, err := url.Parse(addr)
	if err != nil || u.Host == "" {
		return false
	}
	_, err = parseLoopback(addr)
	return u.Scheme == "https" || err == nil
}
