package web

import (
	"net/http"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// headless starts a login for another machine. That machine has no browser; its terminal shows the link to
// this page. The user must first confirm that the machine is theirs, because a stranger may have sent the
// link. The parameter handle names the login.
func (s *Server) headless(w http.ResponseWriter, r *http.Request) {
	if !s.checkParams(w, r) {
		return
	}
	handle := r.URL.Query().Get("handle")
	if handle == "" {
		s.fail(w, r, startInTerminalFault())
		return
	}
	s.startLogin(w, r, authrpc.BeginLoginRequest{Handle: handle, Confirmed: confirmed(r, handle)})
}

// confirmed reports whether the user has confirmed this login on our page. Anybody can send a link with
// "go=1", so that is not sufficient: confirmHeadless has also set a cookie for this handle, and the request
// must not come from another site.
func confirmed(r *http.Request, handle string) bool {
	tag, ok := readCookie(r, confirmCookie)
	wasAsked := ok && tag == attemptTag(handle)
	site := r.Header.Get("Sec-Fetch-Site")
	fromOurPage := site == "" || site == "same-origin" // old browsers do not send it
	return r.URL.Query().Get("go") == "1" && wasAsked && fromOurPage
}

// confirmHeadless answers with a page that asks whether the user started the login on the other machine. Its
// button leads back to headless, with "go=1".
func (s *Server) confirmHeadless(
	w http.ResponseWriter, r *http.Request, handle string, machine authrpc.Headless,
) {
	setCookie(w, confirmCookie, attemptTag(handle))
	q := r.URL.Query()
	q.Set("go", "1")
	next := authrpc.HeadlessPath + "?" + q.Encode()
	view := headlessView{Host: machine.Host, From: machine.From, Code: machine.Code, Next: next}
	s.render(w, r, http.StatusOK, "headless", view)
}
