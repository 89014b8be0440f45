package web

import (
	"net/http"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// headless starts a login for another machine, which shows the link to this page because it has no browser.
// The user first confirms that the machine is theirs: the link may be from a stranger.
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

// confirmed reports whether the user has confirmed this login on our page. A link with "go=1" is not
// enough: the page also sets a cookie, and the request must not come from another site.
func confirmed(r *http.Request, handle string) bool {
	tag, ok := readCookie(r, confirmCookie)
	site := r.Header.Get("Sec-Fetch-Site")
	return r.URL.Query().Get("go") == "1" && ok && tag == attemptTag(handle) &&
		(site == "" || site == "same-origin")
}

// confirmHeadless asks the user whether they started the login on the other machine.
func (s *Server) confirmHeadless(
	w http.ResponseWriter, r *http.Request, handle string, machine authrpc.Headless,
) {
	setCookie(w, confirmCookie, attemptTag(handle))
	q := r.URL.Query()
	q.Set("go", "1")
	next := authrpc.HeadlessPath + "?" + q.Encode()
	view := headlessView{From: machine.From, Code: machine.Code, Next: next}
	s.render(w, r, http.StatusOK, "headless", view)
}
