package formbrowser_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/threshold-access/threshold/internal/formbrowser"
)

// The browser logs in as a user would: it sends cookies and hidden fields, chooses the form with the field,
// and stops before the redirect that it is told.
func TestABrowserKeepsCookiesSubmitsFormsAndStopsWhereItIsTold(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "seen", Value: "yes", Path: "/"})
		fmt.Fprint(w, `<form action="/other"><input name="x"></form>
			<form method="post" action="/in">
				<input type="hidden" name="h" value="1"><input name="code">
			</form>
			<code id="secret"> ABC </code>`)
	})
	mux.HandleFunc("POST /in", func(w http.ResponseWriter, r *http.Request) {
		c, err := r.Cookie("seen")
		if err != nil || c.Value != "yes" || r.FormValue("h") != "1" || r.FormValue("code") != "123" ||
			r.Header.Get("Origin") == "" {
			http.Error(w, "bad", http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, "http://127.0.0.1:1/callback?code=z", http.StatusSeeOther)
	})
	srv := httptest.NewTLSServer(mux)
	defer srv.Close()

	browser := formbrowser.New(
		srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
		"http://127.0.0.1:1/",
	)
	page, err := browser.Open(t.Context(), srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if got := page.ByID("secret"); got != "ABC" {
		t.Errorf("got secret %q, want ABC", got)
	}
	if _, err := page.Submit(t.Context(), map[string]string{"nosuch": "1"}); err == nil {
		t.Error("a form without the field was submitted, want an error")
	}
	page, err = page.Submit(t.Context(), map[string]string{"code": "123"})
	if err != nil {
		t.Fatal(err)
	}
	if page.Location != "http://127.0.0.1:1/callback?code=z" {
		t.Errorf("got %d %q, want a stop at the loopback address", page.Status, page.Location)
	}
}
