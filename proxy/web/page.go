package web

import (
	"bytes"
	"embed"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed assets
var assetFiles embed.FS

// pages are the parsed templates by name. They are parsed when the process starts, so that a mistake in one
// is found at once.
var pages = func() map[string]*template.Template {
	out := map[string]*template.Template{}
	for _, name := range []string{"home", "choose", "headless", "factor", "done", "approved", "error"} {
		files := []string{"pages/layout.html", "pages/codes.html", "pages/" + name + ".html"}
		out[name] = template.Must(template.ParseFS(pageFiles, files...))
	}
	return out
}()

// pageData is what the templates get. Content is a view below.
type pageData struct {
	locale
	Name    string // of the page
	Cluster string
	Proxy   string // the address of this proxy, as a user types it
	Other   []link // the page in other languages
	Content any
}

type link struct{ Tag, Name, To string }

type (
	chooseView struct{ Choices []choice }
	factorView struct {
		Name   string
		Login  string       // the attemptTag of the form's login
		Kind   string       // of the challenge that the form answers
		Image  template.URL // for an enrolment: the QR code of the secret
		Secret string       // for an enrolment: the secret to type
		// Recovery makes the field one for a recovery code. It has letters, so phones must not show a
		// number pad.
		Recovery bool
		For      *authrpc.Headless // the machine of a headless login, else nil
		Error    *errorView        // why the last code was refused, else nil
	}
	headlessView struct {
		Host, From, Code string
		Next             string
	}
	approvedView struct {
		Name  string
		Codes []string
		From  string
	}
	doneView struct {
		Name  string
		Codes []string
		Next  string
	}
	// errorView is a fault as the user reads it.
	errorView struct {
		Title   string // in the language of the page
		Msg     string // what happened
		Advice  string // general advice for the kind of fault, in the language of the page
		Remedy  string // what the fault says to do
		TextTag string // the language of Msg and Remedy: that of the page, or English
		ID      string
	}
)

// render answers with the page called name. content is the view that the page's template expects. The page
// is complete before the first byte is sent, so that a failing template gives status 500 and no half page.
func (s *Server) render(w http.ResponseWriter, r *http.Request, status int, name string, content any) {
	lang := s.language(w, r)
	data := pageData{
		locale:  lang,
		Name:    name,
		Cluster: s.cfg.Cluster,
		Proxy:   normalHost(r.Host),
		Other:   otherLanguages(r, lang),
		Content: content,
	}
	var b bytes.Buffer
	if err := pages[name].ExecuteTemplate(&b, "layout", data); err != nil {
		s.cfg.Log.Error("cannot render a page", "page", name, "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Language", lang.Tag)
	header.Add("Vary", "Accept-Language, Cookie")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // it fails when the browser has gone
}

// fail answers with an error page, and logs the error under the id that the page shows.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	public := fault.Public(err)
	s.logRefusal("page refused", r, public, err)
	authrpc.SetRetryAfter(w.Header(), public)
	s.render(w, r, authrpc.Status(public.Kind), "error", newErrorView(languageOf(r), public))
}

// codeErrorView logs why a code was refused, and returns what the factor page shows of it.
func (s *Server) codeErrorView(r *http.Request, err error) *errorView {
	public := fault.Public(err)
	s.logRefusal("code refused", r, public, err)
	return newErrorView(languageOf(r), public)
}

func (s *Server) logRefusal(msg string, r *http.Request, public *fault.Error, err error) {
	s.log.Log(slog.LevelInfo, msg,
		"path", r.URL.Path, "from", clientHost(r), "kind", public.Kind, "id", public.ID, "err", err)
}

// newErrorView returns what an error page shows of a fault, in the language of l as far as there are
// translations.
func newErrorView(l locale, e *fault.Error) *errorView {
	out := &errorView{
		Title:  l.T("kind." + string(e.Kind)),
		Advice: l.T("advice." + string(e.Kind)),
		ID:     e.ID,
	}
	out.Msg, out.Remedy, out.TextTag = l.translate(e)
	out.Msg, out.Remedy = capitalize(out.Msg), capitalize(out.Remedy)
	return out
}

func (s *Server) home(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, http.StatusOK, "home", nil)
}

// serveAssets serves the style sheet and the icon.
func serveAssets() http.Handler {
	contentTypes := map[string]string{
		"/assets/style.css": "text/css; charset=utf-8",
		"/assets/icon.svg":  "image/svg+xml",
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := fs.ReadFile(assetFiles, r.URL.Path[1:])
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", contentTypes[r.URL.Path])
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(b)
	})
}

func serveIcon(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "/assets/icon.svg", http.StatusFound)
}

func serveRobots(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte("User-agent: *\nDisallow: /\n"))
}
