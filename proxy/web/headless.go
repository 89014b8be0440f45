package web

import (
	"net/http"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// headless begins a login for a machine without a browser, whose link somebody opened here. They are shown
// which machine asks before anything else happens: the link may have come from a stranger.
func (s *Server) headless(w http.ResponseWriter, r *http.Request) {
	if !s.checkParams(w, r) {
		return
	}
	handle := r.URL.Query().Get("handle")
	if handle == "" {
		s.fail(w, r, fault.New(fault.Invalid, "web.headless", "a login begins in the terminal", remedyLogin))
		return
	}
	s.startLogin(w, r, authrpc.BeginLoginRequest{Handle: handle, Confirmed: confirmed(r, handle)})
}

// confirmed reports whether this browser was shown who asks, and its person went on from that page. A link
// that says so is not enough: the page leaves a cookie, and no other site may follow its link.
func confirmed(r *http.Request, handle string) bool {
	asked, ok := readCookie(r, confirmCookie)
	site := r.Header.Get("Sec-Fetch-Site")
	return r.URL.Query().Get("go") == "1" && ok && asked == attemptTag(handle) &&
		(site == "" || site == "same-origin")
}

func (s *Server) confirmHeadless(
	w http.ResponseWriter,
	r *http.Request,
	handle string,
	who authrpc.Headless,
) {
	setCookie(w, confirmCookie, attemptTag(handle))
	q := r.URL.Query()
	q.Set("go", "1")
	s.render(
		w,
		r,
		http.StatusOK,
		"headless",
		headlessView{From: who.From, Code: who.Code, Next: authrpc.HeadlessPath + "?" + q.Encode()},
	)
}
