package web

import (
	"errors"
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

// login is the address that tsh opens in the browser. It redirects to the provider, or lets the user choose
// one.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	if !s.checkParams(w, r) {
		return
	}
	q := r.URL.Query()
	if q.Get("challenge") == "" {
		s.fail(w, r, startInTerminalFault())
		return
	}
	s.startLogin(w, r, authrpc.BeginLoginRequest{
		Challenge: q.Get("challenge"),
		Callback:  q.Get("callback"),
		State:     q.Get("state"),
	})
}

func startInTerminalFault() error {
	return fault.New(fault.Invalid, "web.login", "a login must be started in the terminal", remedyLogin)
}

// checkParams reports whether each parameter of the address is there once and not too long. If not, it has
// answered with an error page.
func (s *Server) checkParams(w http.ResponseWriter, r *http.Request) bool {
	for _, values := range r.URL.Query() {
		if len(values) != 1 || len(values[0]) > maxParamBytes {
			s.fail(w, r, fault.New(fault.Invalid, "web.login", "the login address is not valid", remedyLogin))
			return false
		}
	}
	return true
}

// startLogin begins a login at the auth service and redirects to the provider. Before that it may ask the
// user for the provider, or whether they started a headless login.
func (s *Server) startLogin(w http.ResponseWriter, r *http.Request, req authrpc.BeginLoginRequest) {
	q := r.URL.Query()
	req.Connector = q.Get("connector")
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
		s.render(w, r, http.StatusOK, "choose", chooseView{Choices: choices(r.URL.Path, q, res.Connectors)})
		return
	}
	if !validProviderURL(res.Redirect) || res.Attempt == "" {
		s.fail(w, r, errors.New("the auth service sent no valid provider URL or no attempt"))
		return
	}
	dropCookies(w, screenCookie, confirmCookie)
	setCookie(w, attemptCookie, res.Attempt)
	redirect(w, res.Redirect)
}

// redirect redirects without a body, which would contain the address. The address may carry a one-time code.
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

// callback receives the answer of the provider and redirects to the factor page. Without the redirect,
// reloading the page would use the provider's code a second time.
func (s *Server) callback(w http.ResponseWriter, r *http.Request) {
	attempt, ok := readCookie(r, attemptCookie)
	if !ok {
		s.fail(w, r, noLoginFault())
		return
	}
	q := r.URL.Query()
	res, err := callAuth(r.Context(), s, authrpc.FinishOIDC, authrpc.FinishOIDCRequest{
		Attempt:          attempt,
		Connector:        r.PathValue("connector"),
		State:            q.Get("state"),
		Code:             q.Get("code"),
		Issuer:           q.Get("iss"),
		Error:            q.Get("error"),
		ErrorDescription: q.Get("error_description"),
		From:             clientHost(r),
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	v := screen{Name: res.Name, Enrol: res.Enrol, Headless: res.Headless, Expires: res.Expires}
	sealed, err := s.seal.seal(v, res.Attempt)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	setCookie(w, attemptCookie, res.Attempt)
	setCookie(w, screenCookie, sealed)
	redirect(w, factorPath)
}

func noLoginFault() error {
	return fault.New(fault.Expired, "web.login",
		"this browser has no login in progress: it was finished already, or the browser keeps no cookies",
		remedyLogin)
}

// pendingLogin reads the two cookies of a login that waits for its second factor.
func (s *Server) pendingLogin(r *http.Request) (attempt string, v screen, err error) {
	attempt, ok := readCookie(r, attemptCookie)
	sealed, ok2 := readCookie(r, screenCookie)
	if !ok || !ok2 {
		return "", v, noLoginFault()
	}
	v, err = s.seal.open(sealed, attempt)
	if err != nil {
		return "", v, fault.Wrap(err, fault.Expired, "web.login",
			"this login cannot continue: its cookies are not from this proxy, or the proxy was restarted",
			remedyLogin)
	}
	if !v.Expires.IsZero() && s.cfg.Now().After(v.Expires) {
		return "", v, fault.New(fault.Expired, "web.login", "this page was open for too long", remedyLogin)
	}
	return attempt, v, nil
}

func (s *Server) showFactor(w http.ResponseWriter, r *http.Request) {
	attempt, v, err := s.pendingLogin(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.renderFactor(w, r, http.StatusOK, attempt, v, nil)
}

// renderFactor answers with the factor page. refused says why the last code was refused; nil without one.
func (s *Server) renderFactor(
	w http.ResponseWriter, r *http.Request, status int, attempt string, v screen, refused error,
) {
	view := factorView{
		Name:     v.Name,
		Login:    attemptTag(attempt),
		Recovery: v.Enrol == nil && r.FormValue("with") == "recovery",
		For:      v.Headless,
	}
	if v.Enrol != nil {
		image, err := qrImage(v.Enrol.URI)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		view.Image, view.Secret = image, groupInFours(v.Enrol.Secret)
	}
	if refused != nil {
		view.Error = s.codeErrorView(r, refused)
	}
	s.render(w, r, status, "factor", view)
}

// proveFactor receives the code. A wrong code shows the form again. An error that no other code can mend
// ends on the error page.
func (s *Server) proveFactor(w http.ResponseWriter, r *http.Request) {
	attempt, v, err := s.pendingLogin(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if err := r.ParseForm(); err != nil {
		s.fail(w, r, fault.Wrap(err, fault.Invalid, "web.factor", "the form could not be read", remedyLogin))
		return
	}
	// A second login in the same browser, perhaps one that another site has opened, replaces the cookies of
	// the first. A code from the page of the first must not be used for the second. A form without the
	// field is not from our page; the checks for other sites have let it pass.
	if of := r.PostFormValue("attempt"); of != "" && of != attemptTag(attempt) {
		s.fail(w, r, fault.New(fault.Expired, "web.factor",
			"this page belongs to another login than the one in progress in this browser", remedyLogin))
		return
	}
	code := strings.TrimSpace(r.PostFormValue("code"))
	if code == "" || len(code) > maxCodeBytes {
		err = fault.New(fault.Invalid, "web.factor",
			"this is not a code", "type the six digits that your authenticator app shows")
		s.renderFactor(w, r, authrpc.Status(fault.Invalid), attempt, v, err)
		return
	}
	req := authrpc.ProveFactorRequest{Attempt: attempt, Code: code, From: clientHost(r)}
	res, err := callAuth(r.Context(), s, authrpc.ProveFactor, req)
	switch kind := fault.KindOf(err); {
	case kind == fault.Expired, kind == fault.Internal:
		s.fail(w, r, err)
	case err != nil:
		s.renderFactor(w, r, authrpc.Status(kind), attempt, v, err)
	case v.Headless != nil:
		dropCookies(w, attemptCookie, screenCookie)
		view := approvedView{Name: res.Name, Codes: res.RecoveryCodes, From: v.Headless.From}
		s.render(w, r, http.StatusOK, "approved", view)
	default:
		s.finish(w, r, res)
	}
}

// finish redirects to tsh. After an enrolment it shows the recovery codes first, which are shown only this
// once. It also shows a page when the address is [::1], to which contentSecurityPolicy allows no redirect.
func (s *Server) finish(w http.ResponseWriter, r *http.Request, res authrpc.ProveFactorResponse) {
	callback, err := parseLoopback(res.Redirect)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	dropCookies(w, attemptCookie, screenCookie)
	next := inChosenLanguage(r, callback)
	if len(res.RecoveryCodes) > 0 || callback.Hostname() != "127.0.0.1" {
		view := doneView{Name: res.Name, Codes: res.RecoveryCodes, Next: next}
		s.render(w, r, http.StatusOK, "done", view)
		return
	}
	redirect(w, next)
}

// inChosenLanguage adds the language that the user chose on our pages, if any, for the last page, which tsh
// serves. Our cookie does not reach it.
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

// parseLoopback accepts only http addresses of this machine. A browser with its one-time code must go
// nowhere else (RFC 8252 section 7.3).
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
