/**
 * Mail clients of several languages, each as its users write it, without an option about TLS. A program gets host, port,
 * recipient, subject, and where it logs in user and password, as its arguments.
 */

export interface Client {
  name: string
  /** The command; the program follows it as its last argument. */
  command: string[]
  /** Ends with 0 where the client is installed. */
  probe: string
  program: string
  /** For port 465, where another program or option is needed. */
  implicitTls: string
}

const PYTHON = (kind: string) => `
import smtplib, ssl, sys
host, port, to, subject, *login = sys.argv[1:]
context = ssl.create_default_context()
with smtplib.SMTP${kind}(host, port, timeout=20${kind && ', context=context'}) as smtp:
    smtp.ehlo()
    if smtp.has_extn('starttls'): smtp.starttls(context=context)
    if login: smtp.login(*login)
    smtp.sendmail('app@shop.example', [to], f'Subject: {subject}\\n\\nHello')
`
const NODEMAILER = (scheme: string) => `
import { createTransport } from 'nodemailer'
const [host, port, to, subject, ...login] = process.argv.slice(1)
const auth = login.length > 0 ? login.map(encodeURIComponent).join(':') + '@' : ''
const transport = createTransport(\`${scheme}://\${auth}\${host}:\${port}\`)
await transport.sendMail({ from: 'app@shop.example', to, subject, text: 'Hello' })
transport.close()
`
const RUBY_MAIL = (option: string) => `
require 'mail'
host, port, recipient, title, *login = ARGV
settings = { address: host, port: port.to_i, ${option} }
settings.update(user_name: login[0], password: login[1], authentication: :plain) unless login.empty?
Mail.defaults { delivery_method :smtp, settings }
Mail.deliver { from 'app@shop.example'; to recipient; subject title; body 'Hello' }
`
const LOAD_PHPMAILER = `require '/usr/share/php/libphp-phpmailer/autoload.php';`
const PHPMAILER = (option: string) => `
${LOAD_PHPMAILER}
[, $host, $port, $to, $subject] = $argv;
$mail = new PHPMailer\\PHPMailer\\PHPMailer(true);
$mail->isSMTP();
// From 6.8 on it turns to STARTTLS by itself only where the host is not called localhost.
$mail->Host = gethostbyname($host);
$mail->Port = (int) $port;
${option}
if ($argc > 5) { $mail->SMTPAuth = true; [, , , , , $mail->Username, $mail->Password] = $argv; }
$mail->setFrom('app@shop.example');
$mail->addAddress($to);
$mail->Subject = $subject;
$mail->Body = 'Hello';
$mail->send();
`
const LOAD_SYMFONY = `require '/usr/share/php/Symfony/Component/Mailer/autoload.php';`
const SYMFONY = (scheme: string) => `
${LOAD_SYMFONY}
[, $host, $port, $to, $subject] = $argv;
$login = $argc > 5 ? implode(':', array_map('rawurlencode', array_slice($argv, 5))) . '@' : '';
$transport = Symfony\\Component\\Mailer\\Transport::fromDsn("${scheme}://$login$host:$port");
$email = (new Symfony\\Component\\Mime\\Email())->from('app@shop.example')->to($to)->subject($subject)->text('Hello');
(new Symfony\\Component\\Mailer\\Mailer($transport))->send($email);
`
const NODE = [process.execPath, '--input-type=module', '--eval']
const PHP = ['php', '-r']

export const CLIENTS: Client[] = (
  [
    ['Python smtplib', ['python3', '-c'], 'import smtplib, ssl', PYTHON, '', '_SSL'],
    ['nodemailer', NODE, `import 'nodemailer'`, NODEMAILER, 'smtp', 'smtps'],
    ['Ruby mail (Rails)', ['ruby', '-e'], `require 'mail'`, RUBY_MAIL, '', 'tls: true'],
    ['PHPMailer', PHP, LOAD_PHPMAILER, PHPMAILER, '', `$mail->SMTPSecure = 'ssl';`],
    ['Symfony Mailer (Laravel)', PHP, LOAD_SYMFONY, SYMFONY, 'smtp', 'smtps'],
  ] as const
).map(([name, command, probe, programOf, plain, implicit]) => ({
  name,
  command: [...command],
  probe,
  program: programOf(plain),
  implicitTls: programOf(implicit),
}))
