package web

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed assets
var assetFiles embed.FS

// pages are parsed once; a mistake in one shows at start.
var pages = func() map[string]*template.Template {
	out := map[string]*template.Template{}
	for _, name := range []string{"home", "choose", "headless", "factor", "done", "approved", "error"} {
		out[name] = template.Must(
			template.ParseFS(pageFiles, "pages/layout.html", "pages/codes.html", "pages/"+name+".html"),
		)
	}
	return out
}()

// pageData is what every page has.
type pageData struct {
	locale
	Name    string // of the page: the title is words["NAME.title"]
	Cluster string
	Proxy   string // how tsh is told to find us
	Other   []link // the same page in other languages
	Is      any    // the page's own
}

type link struct{ Tag, Name, To string }

type (
	chooseView struct{ Choices []choice }
	factorView struct {
		Name   string
		Login  string       // which login the form is of
		Image  template.URL // enrolment: the QR code
		Secret string       // enrolment: the same to type
		// Recovery: the field is for a recovery code, which has letters, so phones must not show digits only.
		Recovery bool
		For      *authrpc.Headless // the machine that this login is for, if for another
		Error    *errorView
	}
	headlessView struct {
		From, Code string
		Next       string
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
	// errorView is a fault as a person reads it.
	errorView struct {
		Title  string // in their language
		Msg    string // what happened, as auth says it
		MsgIn  string // the language of Msg: English where theirs lacks it
		Advice string // in their language
		Remedy string // what auth advises
		HintIn string // the language of Remedy
		ID     string
	}
)

func (s *Server) render(w http.ResponseWriter, r *http.Request, status int, name string, view any) {
	text := s.language(w, r)
	f := pageData{
		locale:  text,
		Name:    name,
		Cluster: s.cfg.Cluster,
		Proxy:   normalHost(r.Host),
		Other:   otherLanguages(r, text),
		Is:      view,
	}
	var b bytes.Buffer
	if err := pages[name].ExecuteTemplate(&b, "layout", f); err != nil {
		s.cfg.Log.Error("page could not be made", "page", name, "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", text.Tag)
	h.Add("Vary", "Accept-Language, Cookie")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the browser is gone if this fails
}

// fail shows why a page cannot be had and what to do next, and logs it under the same id.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	public := fault.Public(err)
	s.logRefusal("page refused", r, public, err)
	s.render(w, r, authrpc.Status(public.Kind), "error", newErrorView(languageOf(r), public))
}

// logRefusal logs a refusal. Strangers cause most of them, so there is a limit to how many a second are
// written; the others are counted.
func (s *Server) logRefusal(what string, r *http.Request, public *fault.Error, err error) {
	if !s.logLimiter.Allow() {
		s.unlogged.Add(1)
		return
	}
	s.cfg.Log.Info(
		what,
		"path",
		r.URL.Path,
		"from",
		clientHost(r),
		"kind",
		public.Kind,
		"id",
		public.ID,
		"unlogged_before",
		s.unlogged.Swap(0),
		"err",
		err,
	)
}

func (s *Server) codeErrorView(r *http.Request, err error) *errorView {
	public := fault.Public(err)
	s.logRefusal("code refused", r, public, err)
	return newErrorView(languageOf(r), public)
}

func newErrorView(t locale, e *fault.Error) *errorView {
	out := &errorView{Title: t.T("kind." + string(e.Kind)), Advice: t.T("advice." + string(e.Kind)), ID: e.ID}
	out.Msg, out.MsgIn = t.translate(e.Msg)
	out.Remedy, out.HintIn = t.translate(e.Remedy)
	out.Msg, out.Remedy = capitalize(out.Msg), capitalize(out.Remedy)
	return out
}

func (s *Server) home(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, http.StatusOK, "home", nil)
}

// serveAssets serves the style sheet and the icon.
func serveAssets() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := fs.ReadFile(assetFiles, r.URL.Path[1:])
		if err != nil {
			http.NotFound(w, r)
			return
		}
		kinds := map[string]string{
			"/assets/style.css": "text/css; charset=utf-8",
			"/assets/icon.svg":  "image/svg+xml",
		}
		w.Header().Set("Content-Type", kinds[r.URL.Path])
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(b)
	})
}

func serveIcon(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "/assets/icon.svg", http.StatusFound)
}

// T says a phrase in the page's language. A missing one is a defect that a test finds.
func (t locale) T(key string, args ...any) string {
	phrase, ok := t.texts[key]
	if !ok {
		return "[" + key + "]"
	}
	if len(args) > 0 {
		return fmt.Sprintf(phrase, args...)
	}
	return phrase
}
