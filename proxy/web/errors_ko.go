package web

// errorTextsKorean translates the errors that a login can end with, from the auth service and from these
// pages: first the English text, then the Korean one. A "*" in the English text stands for a variable part.
// The translation has {1}, {2} … for the first, second … of them, which are translated themselves where
// possible.
//
// A test reads the sources of the login and reports texts without a translation. Errors from deeper inside
// are shown in English, below a Korean title.
var errorTextsKorean = textPairs(
	// the second factor
	"this code is wrong",
	"코드가 맞지 않습니다",

	"this code is wrong, and so were several before it",
	"코드가 맞지 않습니다. 앞서 입력한 코드도 여러 번 틀렸습니다",

	"this code was used already",
	"이미 사용한 코드입니다",

	"the code is too long",
	"코드가 너무 깁니다",

	"this is not a code",
	"코드가 아닙니다",

	"too many wrong codes were entered",
	"틀린 코드를 너무 많이 입력했습니다",

	"too many wrong codes came from this address",
	"이 주소에서 틀린 코드가 너무 많이 입력되었습니다",

	"too many codes of this user are being checked at once",
	"이 사용자의 코드를 동시에 너무 많이 확인하고 있습니다",

	"a second factor was already enrolled in another login",
	"다른 로그인에서 이미 2단계 인증이 설정되었습니다",

	"the second factor belongs to another user",
	"다른 사용자의 2단계 인증입니다",

	"no TOTP secret could be generated",
	"TOTP 비밀 키를 만들 수 없습니다",

	"this is not a code: a code has six digits, a recovery code has sixteen letters and digits",
	"코드가 아닙니다. 코드는 숫자 6자리, 복구 코드는 영문자와 숫자 16자리입니다",

	"wait for the next code, then enter it",
	"다음 코드가 나올 때까지 기다렸다가 입력하세요",

	"wait for the next code, then try again",
	"다음 코드가 나올 때까지 기다렸다가 다시 시도하세요",

	"enter the code that the app shows now",
	"앱에 지금 표시된 코드를 입력하세요",

	"enter the code that the app shows now; if that is wrong too, set the phone's clock to automatic",
	"앱에 지금 표시된 코드를 입력하세요. 그 코드도 맞지 않으면 휴대폰의 시간을 자동으로 설정하세요",

	"type the six digits that your authenticator app shows",
	"인증 앱에 표시된 숫자 6자리를 입력하세요",

	"try again in *s",
	"{1}초 뒤에 다시 시도하세요",

	"try again in *m",
	"{1}분 뒤에 다시 시도하세요",

	"try again in *h",
	"{1}시간 뒤에 다시 시도하세요",

	"start again: tsh login, and use the app that was enrolled there",
	"터미널에서 다시 시작하고, 그 로그인에서 설정한 앱을 쓰세요: tsh login",

	// the attempt and its pages
	"this page has expired: a login must be finished within 10 minutes",
	"이 화면이 만료되었습니다. 로그인은 10분 안에 마쳐야 합니다",

	"this page was open for too long",
	"이 화면을 너무 오래 열어 두었습니다",

	"this page belongs to another login than the one in progress in this browser",
	"이 화면은 이 브라우저에서 진행 중인 로그인의 것이 아닙니다",

	"this page does not belong to a login of this cluster at this step",
	"이 화면은 이 클러스터에서 진행 중인 로그인의 것이 아닙니다",

	"this browser has no login in progress",
	"이 브라우저에서 진행 중인 로그인이 없습니다",

	"this browser has no login in progress: it was finished already, or the browser keeps no cookies",
	"이 브라우저에서 진행 중인 로그인이 없습니다. 이미 마쳤거나 브라우저가 쿠키를 저장하지 않습니다",

	"this login cannot continue: its cookies are not from this proxy, or the proxy was restarted",
	"이 로그인은 계속할 수 없습니다. 쿠키가 이 프록시의 것이 아니거나 프록시가 다시 시작되었습니다",

	"this login link cannot be used: *",
	"이 로그인 주소는 쓸 수 없습니다: {1}",

	"its challenge is malformed",
	"challenge 값의 형식이 올바르지 않습니다",

	"its language tag is not valid",
	"언어 값이 올바르지 않습니다",

	"its state is malformed",
	"state 값의 형식이 올바르지 않습니다",

	"its callback address is not on this machine",
	"콜백 주소가 이 컴퓨터의 주소가 아닙니다",

	"it mixes a browser login and a headless login",
	"브라우저 로그인과 헤드리스 로그인이 섞여 있습니다",

	"the challenge is malformed",
	"challenge 값의 형식이 올바르지 않습니다",

	"this login was requested from another address: *",
	"다른 주소에서 요청한 로그인입니다: {1}",

	"this login was approved already",
	"이미 승인된 로그인입니다",

	"the address of this machine is not known",
	"이 컴퓨터의 주소를 알 수 없습니다",

	"log in with a browser: tsh login",
	"브라우저로 로그인하세요: tsh login",

	"start again: tsh login --headless",
	"터미널에서 다시 시작하세요: tsh login --headless",

	"update tsh, then start again: tsh login --headless",
	"tsh를 새 버전으로 바꾸고 다시 시작하세요: tsh login --headless",

	"one of its parameters is too long",
	"너무 긴 값이 있습니다",

	"open the complete link that tsh login shows",
	"tsh login이 보여 주는 주소 전체를 그대로 여세요",

	"a login must be started in the terminal",
	"로그인은 터미널에서 시작해야 합니다",

	"the login address is not valid",
	"로그인 주소가 올바르지 않습니다",

	"the form could not be read",
	"양식을 읽을 수 없습니다",

	"there is no such page",
	"그런 페이지가 없습니다",

	"this form was sent from another site",
	"다른 사이트에서 보낸 양식입니다",

	"go to the start page",
	"첫 화면으로 가세요",

	"close that page, then run: tsh login",
	"그 페이지를 닫고 터미널에서 실행하세요: tsh login",

	"run: tsh login",
	"터미널에서 실행하세요: tsh login",

	"start again: tsh login",
	"터미널에서 다시 시작하세요: tsh login",

	"start again: tsh login, in a browser that accepts cookies",
	"쿠키를 허용하는 브라우저로, 터미널에서 다시 시작하세요: tsh login",

	"start again: tsh login, and finish it in the same browser",
	"터미널에서 다시 시작하고, 같은 브라우저에서 끝까지 진행하세요: tsh login",

	"no certificate can carry this identity: *",
	"이 사용자의 정보를 인증서에 담을 수 없습니다: {1}",

	"ask an administrator to map fewer roles and traits",
	"역할과 속성을 더 적게 연결해 달라고 관리자에게 요청하세요",

	"the login cannot continue",
	"로그인을 계속할 수 없습니다",

	"only a proxy may make this request",
	"프록시만 할 수 있는 요청입니다",

	"log in through a proxy: tsh login",
	"프록시를 거쳐 로그인하세요: tsh login",

	// the identity provider
	"the identity provider * cannot be reached",
	"인증 제공자 {1}에 연결할 수 없습니다",

	"the identity provider * cannot be used: *",
	"인증 제공자 {1}을(를) 쓸 수 없습니다: {2}",

	"the identity provider * refused the login: *",
	"인증 제공자 {1}이(가) 로그인을 거부했습니다: {2}",

	"the identity provider * signed with a key it has not published",
	"인증 제공자 {1}이(가) 공개하지 않은 키로 서명했습니다",

	"the identity provider * has not verified the e-mail address *",
	"인증 제공자 {1}이(가) 이메일 주소 {2}을(를) 확인하지 않았습니다",

	"the identity provider * sent no usable claim * (it is missing, too long, or has invisible characters)",
	"인증 제공자 {1}이(가) 쓸 수 있는 {2} 값을 보내지 않았습니다(값이 없거나, 너무 길거나, 보이지 않는 문자가 있습니다)",

	"the identity provider does not know this code: it was used already, has expired, or belongs to another login",
	"인증 제공자가 모르는 코드입니다. 이미 사용했거나, 만료되었거나, 다른 로그인의 것입니다",

	"the identity provider sent more data about this user than a login can hold",
	"인증 제공자가 보낸 이 사용자의 정보가 너무 많아 로그인을 계속할 수 없습니다",

	"the identity provider sent neither a code nor an error",
	"인증 제공자가 코드도 오류도 보내지 않았습니다",

	"the identity provider's response is too large",
	"인증 제공자의 응답이 너무 큽니다",

	"the response of the identity provider does not belong to this login",
	"인증 제공자의 응답이 이 로그인의 것이 아닙니다",

	"the callback belongs to another identity provider than this login",
	"다른 인증 제공자의 콜백 주소로 응답이 왔습니다",

	"the response comes from another identity provider than the one that was asked",
	"요청한 곳이 아닌 다른 인증 제공자의 응답입니다",

	"the response of the identity provider * is refused: *",
	"인증 제공자 {1}의 응답을 받아들일 수 없습니다: {2}",

	"it does not accept this cluster's client id and secret",
	"이 클러스터의 클라이언트 ID와 비밀 값을 받아들이지 않습니다",

	"it says that its issuer is *",
	"스스로 밝힌 발급자가 {1}입니다",

	"it sent no ID token, or one that is too large",
	"ID 토큰을 보내지 않았거나 ID 토큰이 너무 큽니다",

	"its ID token is not valid",
	"ID 토큰이 유효하지 않습니다",

	"its ID token cannot be read",
	"ID 토큰을 읽을 수 없습니다",

	"its ID token was made for another client",
	"ID 토큰이 다른 클라이언트를 위한 것입니다",

	"its access token and ID token do not belong together",
	"액세스 토큰과 ID 토큰이 서로 맞지 않습니다",

	"its ID token has no issue time or no expiry",
	"ID 토큰에 발급 시각 또는 만료 시각이 없습니다",

	"its ID token has expired",
	"ID 토큰이 만료되었습니다",

	"its ID token is not valid yet",
	"ID 토큰이 아직 유효하지 않습니다",

	"the clock of the identity provider * is * behind this server's (* here)",
	"인증 제공자 {1}의 시계가 이 서버보다 {2} 늦습니다(이 서버: {3})",

	"the clock of the identity provider * is * ahead of this server's (* here)",
	"인증 제공자 {1}의 시계가 이 서버보다 {2} 빠릅니다(이 서버: {3})",

	"this cluster has no connector, so nobody can log in",
	"이 클러스터에 연결된 인증 제공자가 없어 아무도 로그인할 수 없습니다",

	"there is no connector *",
	"{1}(이)라는 커넥터가 없습니다",

	"this release cannot read connector *",
	"이 버전에서는 커넥터 {1}을(를) 읽을 수 없습니다",

	"too many logins are in progress",
	"지금 진행 중인 로그인이 너무 많습니다",

	"too many users are logging in at the same time",
	"지금 로그인하는 사람이 너무 많습니다",

	"wait a minute, then try again",
	"1분 뒤에 다시 시도하세요",

	"try again in a minute",
	"1분 뒤에 다시 시도하세요",

	"try again in a minute: tsh login",
	"1분 뒤에 터미널에서 다시 시도하세요: tsh login",

	"try again: tsh login",
	"터미널에서 다시 시도하세요: tsh login",

	"choose one of: *",
	"다음 중에서 고르세요: {1}",

	"choose another one on the login page",
	"로그인 화면에서 다른 것을 고르세요",

	"confirm the address with the provider, then start again: tsh login",
	"인증 제공자에서 주소를 확인한 뒤 터미널에서 다시 시작하세요: tsh login",

	"try again in a minute; if it happens again, tell an administrator that * does not answer",
	"1분 뒤에 다시 시도하세요. 계속되면 {1}이(가) 응답하지 않는다고 관리자에게 알리세요",

	"start again: tsh login, and give consent on the provider's page; if it happens again, ask an administrator for access there",
	"터미널에서 다시 시작하고 인증 제공자 화면에서 동의하세요. 계속되면 그곳의 접근 권한을 관리자에게 요청하세요: tsh login",

	"start again: tsh login; if it happens again, ask an administrator to look at connector *",
	"터미널에서 다시 시작하세요: tsh login. 계속되면 관리자에게 커넥터 {1}을(를) 살펴봐 달라고 하세요",

	"ask an administrator to correct connector *",
	"관리자에게 커넥터 {1}을(를) 고쳐 달라고 하세요",

	"ask an administrator to correct the account at the provider, or connector *",
	"관리자에게 인증 제공자의 계정이나 커넥터 {1}을(를) 고쳐 달라고 하세요",

	"ask an administrator to map fewer roles and traits in the connector",
	"커넥터에서 역할과 속성을 더 적게 연결해 달라고 관리자에게 요청하세요",

	"ask an administrator to set the clock of the auth server; then start again: tsh login",
	"관리자에게 인증 서버의 시계를 맞춰 달라고 한 뒤 터미널에서 다시 시작하세요: tsh login",

	"ask an administrator to apply one: tsh apply -f connector.yaml",
	"관리자에게 추가해 달라고 하세요: tsh apply -f connector.yaml",

	// this cluster
	"the proxy's public address is not of the form https://host or https://host:port",
	"프록시의 공개 주소가 https://host 또는 https://host:port 형식이 아닙니다",

	"ask an administrator to set the proxy's public address",
	"관리자에게 프록시의 공개 주소를 설정해 달라고 하세요",

	"the auth service does not answer this proxy",
	"프록시가 인증 서버의 응답을 받지 못했습니다",

	"try again in a minute; if it happens again, tell an administrator",
	"1분 뒤에 다시 시도하세요. 계속되면 관리자에게 알리세요",

	"run the newest release on every auth replica",
	"관리자에게 모든 인증 서버를 최신 버전으로 올려 달라고 하세요",

	"internal error",
	"내부 오류가 발생했습니다",

	"ask an administrator to look up the error id in the log",
	"관리자에게 로그에서 이 오류 번호를 찾아 달라고 하세요",

	"somebody else changed this at the same time",
	"다른 사람이 동시에 변경했습니다",

	"read it again and repeat the change",
	"터미널에서 다시 시작하세요: tsh login",

	"the store has stopped",
	"인증 서버의 저장소가 멈췄습니다",

	"the store is not open yet",
	"인증 서버의 저장소가 아직 열리지 않았습니다",

	"this replica is not the leader",
	"인증 서버의 리더가 바뀌는 중입니다",

	"try again in a moment",
	"잠시 뒤에 다시 시도하세요",

	"it is unknown whether the change was written",
	"저장되었는지 확인하지 못했습니다",

	"check whether the change was made, then try again",
	"확인한 뒤 다시 시도하세요",

	"the disk of this replica is full: nothing more is written, nothing written is lost",
	"인증 서버의 디스크가 가득 차서 더 저장할 수 없습니다. 이미 저장한 것은 안전합니다",

	"the disk of this replica failed: nothing more is written",
	"인증 서버의 디스크에 문제가 있어 더 저장할 수 없습니다",

	"free space in the data folder's file system, then restart auth",
	"관리자에게 인증 서버의 디스크 공간을 늘리고 다시 시작해 달라고 하세요",

	"check the disk (dmesg, smartctl), then restart auth; what was acknowledged is read again from disk",
	"관리자에게 인증 서버의 디스크를 점검하고 다시 시작해 달라고 하세요",
)
