package web

// The texts of the pages, by page and place. Every language has the same keys, which a test checks. The
// texts of errors are in English where they arise; errors_ko.go has their translations.

var english = map[string]string{
	"brand": "Threshold",
	"foot":  "Access to the machines of %s",
	"langs": "Language",

	"home.title": "Access to your machines",
	"home.lead": "Connect to the machines of %s from your terminal. " +
		"A login lasts for a few hours, and there are no SSH keys to keep.",
	"home.first":  "Log in",
	"home.then":   "List the nodes that you may reach",
	"home.go":     "Connect to a node",
	"home.plain":  "Use OpenSSH, scp and your editor",
	"home.no-tsh": "No tsh on this computer yet? Ask the person who gave you this address.",

	"choose.title": "How do you want to log in?",
	"choose.lead":  "Choose where you have your account.",

	"headless.title": "Log in on another machine?",
	"headless.lead": "A machine at the address %s asks to log in as you. " +
		"Its terminal must show this code:",
	"headless.name": "It calls itself %s.",
	"headless.warn": "Continue only if you started this login yourself just now and the terminal shows the same code. " +
		"If somebody sent you this link, close the page: the person at that machine would act as you.",
	"headless.continue": "This is my machine: log in",
	"headless.else":     "The certificates are valid for one hour at most, and only from that address.",

	"approved.title": "Logged in",
	"approved.lead":  "The login continues on the machine at %s. You can close this page.",

	"factor.for":          "This login is for another machine, at %s. Its terminal must show this code:",
	"factor.title":        "Your second factor",
	"factor.enrol-title":  "Set up your second factor",
	"factor.hello":        "Signed in as %s.",
	"factor.lead":         "Type the code that your authenticator app shows for Threshold.",
	"factor.use-recovery": "Lost your phone? Use a recovery code",
	"factor.use-code":     "Use a code from the app",
	"factor.recovery-lead": "Type one of the recovery codes that you kept when you set up your second factor. " +
		"Each works once.",
	"factor.recovery-code": "Recovery code",
	"factor.enrol-lead": "From now on, a login needs a code from an app on your phone. " +
		"The secret is shown only now.",
	"factor.scan":    "Scan this with an authenticator app",
	"factor.alt":     "QR code with the secret that is written below it",
	"factor.type":    "or type this secret into the app",
	"factor.confirm": "Then type the code that the app shows",
	"factor.code":    "Code",
	"factor.send":    "Continue",

	"done.title": "One step left",
	"done.lead": "“Continue” passes the login on to tsh on this computer. " +
		"Then go back to the terminal.",
	"done.codes": "Keep these recovery codes",
	"done.why": "Each works once, instead of a code from the app, when you have lost your phone. " +
		"They are shown only now: print them or save them in a password manager.",
	"done.continue": "Continue",

	"error.what":   "What to do",
	"error.detail": "Error id",
	"error.home":   "Start page",

	"error.title":          "Error",
	"kind.internal":        "Internal error",
	"kind.invalid":         "Invalid request",
	"kind.unauthenticated": "Your identity could not be verified",
	"kind.denied":          "Access denied",
	"kind.expired":         "This has expired",
	"kind.not_found":       "Not found",
	"kind.conflict":        "Changed in the meantime",
	"kind.unavailable":     "Not available at the moment",
	"kind.exhausted":       "A limit has been reached",

	"advice.internal":        "Tell an administrator the error id below.",
	"advice.invalid":         "Go back to the terminal and start again: tsh login",
	"advice.unauthenticated": "Try again, or go back to the terminal and start again: tsh login",
	"advice.denied":          "If you need access, ask an administrator.",
	"advice.expired":         "Go back to the terminal and start again: tsh login",
	"advice.not_found":       "Check the address, or go to the start page.",
	"advice.conflict":        "Go back to the terminal and start again: tsh login",
	"advice.unavailable":     "Wait a moment, then try again.",
	"advice.exhausted":       "Wait a while, then try again.",
}

var korean = map[string]string{
	"brand": "Threshold",
	"foot":  "%s 서버 접속",
	"langs": "언어",

	"home.title": "서버 접속",
	"home.lead": "터미널에서 %s의 서버에 접속할 수 있습니다. " +
		"로그인은 몇 시간 동안 유효하며, 따로 보관할 SSH 키가 없습니다.",
	"home.first":  "로그인",
	"home.then":   "접속할 수 있는 서버 보기",
	"home.go":     "서버에 접속하기",
	"home.plain":  "OpenSSH, scp, 편집기에서 사용하기",
	"home.no-tsh": "이 컴퓨터에 아직 tsh가 없나요? 이 주소를 알려 준 분에게 문의하세요.",

	"choose.title": "어느 계정으로 로그인할까요?",
	"choose.lead":  "계정이 있는 곳을 고르세요.",

	"headless.title": "다른 컴퓨터에서 로그인할까요?",
	"headless.lead": "주소가 %s인 컴퓨터가 내 계정으로 로그인하려고 합니다. " +
		"그 컴퓨터의 터미널에 다음 코드가 보여야 합니다.",
	"headless.name": "이 컴퓨터가 밝힌 이름은 %s입니다.",
	"headless.warn": "방금 직접 시작한 로그인이고 터미널에 같은 코드가 보일 때만 계속하세요. " +
		"다른 사람이 보낸 링크라면 이 화면을 닫으세요. 그 컴퓨터를 쓰는 사람이 내 권한을 쓰게 됩니다.",
	"headless.continue": "내 컴퓨터입니다. 로그인",
	"headless.else":     "인증서는 최대 한 시간 동안, 그 주소에서만 쓸 수 있습니다.",

	"approved.title": "로그인했습니다",
	"approved.lead":  "주소가 %s인 컴퓨터에서 로그인이 이어집니다. 이 화면은 닫아도 됩니다.",

	"factor.for": "주소가 %s인 다른 컴퓨터를 위한 로그인입니다. " +
		"그 컴퓨터의 터미널에 보여야 하는 코드:",
	"factor.title":        "2단계 인증",
	"factor.enrol-title":  "2단계 인증 설정",
	"factor.hello":        "%s(으)로 로그인했습니다.",
	"factor.lead":         "인증 앱에 표시된 Threshold 코드를 입력하세요.",
	"factor.use-recovery": "휴대폰을 잃어버렸나요? 복구 코드 사용",
	"factor.use-code":     "앱의 코드 사용",
	"factor.recovery-lead": "2단계 인증을 설정할 때 보관한 복구 코드를 하나 입력하세요. " +
		"코드마다 한 번만 쓸 수 있습니다.",
	"factor.recovery-code": "복구 코드",
	"factor.enrol-lead": "앞으로 로그인할 때 휴대폰 앱의 코드가 필요합니다. " +
		"비밀 키는 지금 이 화면에서만 볼 수 있습니다.",
	"factor.scan":    "인증 앱으로 스캔하세요",
	"factor.alt":     "아래에 적힌 비밀 키가 담긴 QR 코드",
	"factor.type":    "또는 이 비밀 키를 앱에 입력하세요",
	"factor.confirm": "그런 다음 앱에 표시된 코드를 입력하세요",
	"factor.code":    "코드",
	"factor.send":    "계속",

	"done.title": "한 단계 남았습니다",
	"done.lead": "‘계속’을 누르면 이 컴퓨터의 tsh로 로그인이 전달됩니다. " +
		"그런 다음 터미널로 돌아가세요.",
	"done.codes": "복구 코드를 보관하세요",
	"done.why": "휴대폰을 잃어버렸을 때 앱의 코드 대신 한 번씩 쓸 수 있습니다. " +
		"지금만 표시되니 인쇄하거나 비밀번호 관리자에 저장하세요.",
	"done.continue": "계속",

	"error.what":   "해결 방법",
	"error.detail": "오류 번호",
	"error.home":   "첫 화면",

	"error.title":          "오류",
	"kind.internal":        "내부 오류가 발생했습니다",
	"kind.invalid":         "잘못된 요청입니다",
	"kind.unauthenticated": "본인임을 확인하지 못했습니다",
	"kind.denied":          "허용되지 않은 요청입니다",
	"kind.expired":         "유효 시간이 지났습니다",
	"kind.not_found":       "찾을 수 없습니다",
	"kind.conflict":        "그사이에 상태가 바뀌었습니다",
	"kind.unavailable":     "지금은 처리할 수 없습니다",
	"kind.exhausted":       "한도를 넘었습니다",

	"advice.internal":        "아래 오류 번호를 관리자에게 알려 주세요.",
	"advice.invalid":         "터미널로 돌아가 다시 시작하세요: tsh login",
	"advice.unauthenticated": "다시 시도하거나, 터미널로 돌아가 다시 시작하세요: tsh login",
	"advice.denied":          "권한이 필요하면 관리자에게 문의하세요.",
	"advice.expired":         "터미널로 돌아가 다시 시작하세요: tsh login",
	"advice.not_found":       "주소를 확인하거나 첫 화면으로 가세요.",
	"advice.conflict":        "터미널로 돌아가 다시 시작하세요: tsh login",
	"advice.unavailable":     "잠시 기다렸다가 다시 시도하세요.",
	"advice.exhausted":       "시간을 두고 다시 시도하세요.",
}
