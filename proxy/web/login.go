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
	// maxCode bounds what is typed as a code: six digits, or a recovery code with its dashes.
	maxCode = 64
	// maxParam bounds a parameter of the login address.
	maxParam = 2 << 10
)

// remedyLogin is the remedy of everything that cannot go on.
const remedyLogin = "run: tsh login"

// login is where tsh sends the browser: on to the provider, or to a choice of providers.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if !s.checkParams(w, r) {
		return
	}
	if q.Get("challenge") == "" {
		s.fail(w, r, fault.New(fault.Invalid, "web.login", "a login begins in the terminal", remedyLogin))
		return
	}
	s.startLogin(
		w,
		r,
		authrpc.BeginLoginRequest{
			Challenge: q.Get("challenge"),
			Callback:  q.Get("callback"),
			State:     q.Get("state"),
		},
	)
}

// checkParams shows an error page in place of a login whose address has a parameter twice, or too long a one.
func (s *Server) checkParams(w http.ResponseWriter, r *http.Request) bool {
	for _, values := range r.URL.Query() {
		if len(values) != 1 || len(values[0]) > maxParam {
			s.fail(w, r, fault.New(fault.Invalid, "web.login", "the login address is damaged", remedyLogin))
			return false
		}
	}
	return true
}

// startLogin asks auth for the way to the provider, and sends the browser there.
func (s *Server) startLogin(w http.ResponseWriter, r *http.Request, req authrpc.BeginLoginRequest) {
	q := r.URL.Query()
	req.Connector, req.PublicOrigin, req.From, req.Locale = q.Get(
		"connector",
	), s.hosts[normalHost(r.Host)], clientHost(
		r,
	), s.chosenLanguage(
		w,
		r,
	)
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
		s.fail(w, r, errors.New("auth answered a login without a place to go"))
		return
	}
	dropCookies(w, screenCookie, confirmCookie)
	setCookie(w, attemptCookie, res.Attempt)
	redirect(w, res.Redirect)
}

// redirect redirects without a body: nothing keeps a copy of an address that carries a code.
func redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// choice is one provider on the page that offers several.
type choice struct{ Display, Link string }

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

// callback takes what the provider sent the browser back with. The redirect after it keeps a reload from
// spending the code twice.
func (s *Server) callback(w http.ResponseWriter, r *http.Request) {
	attempt, ok := readCookie(r, attemptCookie)
	if !ok {
		s.fail(w, r, noLoginFault())
		return
	}
	q := r.URL.Query()
	res, err := callAuth(r.Context(), s, authrpc.FinishOIDC, authrpc.FinishOIDCRequest{
		Attempt: attempt, Connector: r.PathValue("connector"), State: q.Get("state"), Code: q.Get("code"), Issuer: q.Get("iss"), Error: q.Get("error"),
		ErrorDescription: q.Get("error_description"), From: clientHost(r)})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	sealed, err := s.seal.seal(
		screen{Name: res.Name, Enrol: res.Enrol, Headless: res.Headless, Expires: res.Expires},
		res.Attempt,
	)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	setCookie(w, attemptCookie, res.Attempt)
	setCookie(w, screenCookie, sealed)
	redirect(w, factorPath)
}

func noLoginFault() error {
	return fault.New(
		fault.Expired,
		"web.login",
		"this browser has no login under way: it was finished, or cookies are off",
		remedyLogin,
	)
}

// pendingLogin reads both cookies of a login between provider and factor.
func (s *Server) pendingLogin(r *http.Request) (attempt string, v screen, err error) {
	attempt, ok := readCookie(r, attemptCookie)
	sealed, ok2 := readCookie(r, screenCookie)
	if !ok || !ok2 {
		return "", v, noLoginFault()
	}
	v, err = s.seal.open(sealed, attempt)
	if err != nil {
		return "", v, fault.Wrap(
			err,
			fault.Expired,
			"web.login",
			"this login can go no further: its cookies are not from here, or the proxy was restarted",
			remedyLogin,
		)
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
	s.factorPage(w, r, http.StatusOK, attempt, v, nil)
}

func (s *Server) factorPage(
	w http.ResponseWriter,
	r *http.Request,
	status int,
	attempt string,
	v screen,
	wrong error,
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
	if wrong != nil {
		view.Error = s.codeErrorView(r, wrong)
	}
	s.render(w, r, status, "factor", view)
}

// proveFactor takes the code. A wrong one shows the form again; what can never succeed ends on an error page.
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
	// A second login in the same browser, perhaps one that another site opened, takes over the cookies. A
	// code typed into the first one's page is not for it. Forms that name no login are not ours; that they
	// come from no other site was checked before.
	if of := r.PostFormValue("attempt"); of != "" && of != attemptTag(attempt) {
		s.fail(
			w,
			r,
			fault.New(
				fault.Expired,
				"web.factor",
				"this page belongs to another login than the one under way in this browser",
				remedyLogin,
			),
		)
		return
	}
	code := strings.TrimSpace(r.PostFormValue("code"))
	if code == "" || len(code) > maxCode {
		err = fault.New(
			fault.Invalid,
			"web.factor",
			"this is no code",
			"type the six digits that your authenticator app shows",
		)
		s.factorPage(w, r, authrpc.Status(fault.Invalid), attempt, v, err)
		return
	}
	res, err := callAuth(
		r.Context(),
		s,
		authrpc.ProveFactor,
		authrpc.ProveFactorRequest{Attempt: attempt, Code: code, From: clientHost(r)},
	)
	switch kind := fault.KindOf(err); {
	case kind == fault.Expired, kind == fault.Internal:
		s.fail(w, r, err)
	case err != nil:
		s.factorPage(w, r, authrpc.Status(kind), attempt, v, err)
	case v.Headless != nil:
		dropCookies(w, attemptCookie, screenCookie)
		s.render(
			w,
			r,
			http.StatusOK,
			"approved",
			approvedView{Name: res.Name, Codes: res.RecoveryCodes, From: v.Headless.From},
		)
	default:
		s.finish(w, r, res)
	}
}

// finish sends the browser back to tsh; after an enrolment it first shows the recovery codes, this once.
func (s *Server) finish(w http.ResponseWriter, r *http.Request, res authrpc.ProveFactorResponse) {
	back, err := loopback(res.Redirect)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	dropCookies(w, attemptCookie, screenCookie)
	next := inChosenLanguage(r, back)
	if len(res.RecoveryCodes) > 0 || back.Hostname() != "127.0.0.1" {
		s.render(w, r, http.StatusOK, "done", doneView{Name: res.Name, Codes: res.RecoveryCodes, Next: next})
		return
	}
	redirect(w, next)
}

// inChosenLanguage tells tsh's closing page the language that was chosen here, if one was: its own cookies
// are of another site.
func inChosenLanguage(r *http.Request, back *url.URL) string {
	tag, ok := readCookie(r, languageCookie)
	if !ok || !supported(tag) {
		return back.String()
	}
	q := back.Query()
	q.Set("lang", tag)
	to := *back
	to.RawQuery = q.Encode()
	return to.String()
}

// loopback refuses to send a browser with its one-time code anywhere but to this machine (RFC 8252 section
// 7.3).
func loopback(to string) (*url.URL, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, errors.New("auth named a callback that is no address")
	}
	a, err := netip.ParseAddr(u.Hostname())
	if u.Scheme != "http" || u.User != nil || err != nil || !a.IsLoopback() {
		return nil, errors.New("auth named a callback that is not on loopback")
	}
	return u, nil
}

// validProviderURL lets a browser go to https, or to http on loopback, where demos and tests have their
// provider.
func validProviderURL(to string) bool {
	u, err := url.Parse(to)
	if err != nil || u.Host == "" {
		return false
	}
	_, err = loopback(to)
	return u.Scheme == "https" || err == nil
}
